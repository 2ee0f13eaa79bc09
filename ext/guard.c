/* Lets a process outlive the loss of a file that it has mapped.
 *
 * Where a mapped file is cut short, or its disk fails, reading the mapping raises SIGBUS. If that is in a
 * range which is watched here, the rest of the range becomes zeros, the loss is noted, and the process goes
 * on; whoever reads the range must ask `is_lost` before it believes what it made of it. Any other SIGBUS does
 * what it did before.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 4096 };

static struct {
    atomic_uintptr_t start; /* of pages; 0: this place is free */
    atomic_uintptr_t end;
    atomic_int is_lost;
} ranges[MOST];
static atomic_int places; /* that were ever taken: the handler looks at no others */
static struct sigaction before;
static uintptr_t page_bytes;

static void on_sigbus(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(page_bytes - 1);
    for (int i = 0; i < atomic_load(&places); i++) {
        uintptr_t start = atomic_load(&ranges[i].start), end = atomic_load(&ranges[i].end);
        if (!start || page < start || page >= end)
            continue;
        atomic_store(&ranges[i].is_lost, 1);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        if (mmap((void *)page, end - page, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED)
            return;
    }
    sigaction(SIGBUS, &before, NULL); /* the instruction runs again, and fails as it would have */
}

/* watch(address, length) -> int: a place, or -1 when too many ranges are watched */
static PyObject *watch(PyObject *self, PyObject *args) {
    unsigned long long address;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Kn", &address, &length))
        return NULL;
    if (!page_bytes) {
        struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
        if (sigaction(SIGBUS, &action, &before))
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    for (int i = 0; i < MOST; i++) {
        if (atomic_load(&ranges[i].start))
            continue;
        atomic_store(&ranges[i].is_lost, 0);
        atomic_store(&ranges[i].end, ((uintptr_t)address + length + page_bytes - 1) & ~(page_bytes - 1));
        atomic_store(&ranges[i].start, (uintptr_t)address);
        if (i >= atomic_load(&places))
            atomic_store(&places, i + 1);
        return PyLong_FromLong(i);
    }
    return PyLong_FromLong(-1);
}

/* is_lost(place) -> bool */
static PyObject *is_lost(PyObject *self, PyObject *args) {
    int place;
    if (!PyArg_ParseTuple(args, "i", &place))
        return NULL;
    return PyBool_FromLong(place >= 0 && place < MOST && atomic_load(&ranges[place].is_lost));
}

/* forget(place): before the range is unmapped */
static PyObject *forget(PyObject *self, PyObject *args) {
    int place;
    if (!PyArg_ParseTuple(args, "i", &place))
        return NULL;
    if (place >= 0 && place < MOST)
        atomic_store(&ranges[place].start, 0);
    Py_RETURN_NONE;
}

#define METHOD(name) {#name, name, METH_VARARGS, NULL}

static PyMethodDef methods[] = {METHOD(watch), METHOD(is_lost), METHOD(forget), {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "ext.guard", .m_doc = "Outlives the loss of mapped files.", .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_guard(void) { return PyModule_Create(&module); }
