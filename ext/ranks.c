/* Sums and gathers between the ranks of a group: processes, or threads, of one host that share memory.
 *
 * Every rank makes the same exchanges in the same order. Of each piece of its data a rank writes its own slot,
 * posts the piece's number, waits until the others have posted it, and reads their slots. A rank has two slots
 * which take turns: who has posted piece n has read all of piece n - 2, so that slot is free when all have
 * posted n - 1. Sums are in the order of ranks, so that each rank comes to the same bits.
 *
 * A rank spins for a little longer than ranks are usually apart, then sleeps. It gives up when another sets
 * the group's word for that, or when it has waited for one piece too long. Whatever it exchanges afterwards is
 * left as it is: a step that is one call of C runs to its end, whose results are not looked at.
 *
 * Between steps ranks wait for the next plan for a while, in the same way. Rank 0 wakes those by other means
 * that no longer do.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_RANKS = 64, SPIN_NS = 50000, PLAN_SPIN_NS = 500000, SLEEP_NS = 20000000, LOOKS = 64 };
enum outcome { DONE, ABORTED, LATE };
enum waits { WAITS_NOT, SPINS, SLEEPS };

typedef struct {
    _Atomic uint32_t posted; /* the number of the last piece */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t told;     /* of rank 0: the number of the last plan */
    _Atomic uint32_t waits; /* of others: how one waits for that number */
    char rest_of_line[48];
} Flag;

typedef struct {
    Flag *flags;            /* one for each rank */
    char *slots;            /* two for each rank */
    _Atomic uint32_t *stop; /* not 0: give up */
    Py_ssize_t slot_bytes;
    int rank, size;
    int64_t timeout_ns;
    uint32_t number; /* of the last piece */
    enum outcome outcome;
    uint64_t missing; /* a bit for each rank that was late */
} Group;

/* What rank 0 tells: `length` bytes follow. */
typedef struct {
    uint32_t length, number;
    int64_t written_ns;
} Plan;

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int has_posted(Flag *flag, uint32_t number) {
    return (int32_t)(atomic_load_explicit(&flag->posted, memory_order_acquire) - number) >= 0;
}

static void post(Flag *flag, uint32_t number) {
    atomic_store(&flag->posted, number);
    if (atomic_load(&flag->sleepers))
        syscall(SYS_futex, &flag->posted, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void sleep_on(Flag *flag, uint32_t number) {
    struct timespec most = {.tv_nsec = SLEEP_NS};
    atomic_fetch_add(&flag->sleepers, 1);
    uint32_t seen = atomic_load(&flag->posted);
    if ((int32_t)(seen - number) < 0)
        syscall(SYS_futex, &flag->posted, FUTEX_WAIT, seen, &most, NULL, 0);
    atomic_fetch_sub(&flag->sleepers, 1);
}

static enum outcome wait_for(Group *group, int rank, uint32_t number) {
    Flag *flag = &group->flags[rank];
    if (has_posted(flag, number))
        return DONE;
    int64_t start = now_ns();
    for (;;) {
        for (int look = 0; look < LOOKS; look++, relax())
            if (has_posted(flag, number))
                return DONE;
        if (atomic_load(group->stop))
            return ABORTED;
        int64_t waited = now_ns() - start;
        if (waited > group->timeout_ns) {
            group->missing |= UINT64_C(1) << rank;
            return LATE;
        }
        if (waited > SPIN_NS)
            sleep_on(flag, number);
    }
}

/* The worst of what came of waiting for every other rank, so that all that are missing are known. */
static enum outcome wait_for_all(Group *group, uint32_t number) {
    enum outcome worst = DONE;
    for (int rank = 0; rank < group->size && worst != ABORTED; rank++) {
        enum outcome outcome = rank == group->rank ? DONE : wait_for(group, rank, number);
        worst = outcome > worst || outcome == ABORTED ? outcome : worst;
    }
    return worst;
}

static char *slot(Group *group, int rank, uint32_t number) {
    return group->slots + (2 * rank + (number & 1)) * group->slot_bytes;
}

static void add_up(Group *group, uint32_t number, Py_ssize_t num_bytes, float *out) {
    Py_ssize_t count = num_bytes / (Py_ssize_t)sizeof(float);
    const float *first = (const float *)slot(group, 0, number), *second = (const float *)slot(group, 1, number);
    for (Py_ssize_t i = 0; i < count; i++)
        out[i] = first[i] + second[i];
    for (int rank = 2; rank < group->size; rank++) {
        const float *part = (const float *)slot(group, rank, number);
        for (Py_ssize_t i = 0; i < count; i++)
            out[i] += part[i];
    }
}

static enum outcome exchange_piece(
    Group *group, uint32_t number, const char *in, Py_ssize_t num_bytes, char *out, Py_ssize_t stride, int adds
) {
    enum outcome outcome = wait_for_all(group, number - 1);
    if (outcome != DONE)
        return outcome;
    memcpy(slot(group, group->rank, number), in, num_bytes);
    post(&group->flags[group->rank], number);
    if (!out)
        return DONE;
    if ((outcome = wait_for_all(group, number)) != DONE)
        return outcome;
    if (adds)
        add_up(group, number, num_bytes, (float *)out);
    else
        for (int rank = 0; rank < group->size; rank++)
            memcpy(out + rank * stride, slot(group, rank, number), num_bytes);
    return DONE;
}

static void exchange_all(Group *group, const char *in, Py_ssize_t num_bytes, char *out, int adds) {
    for (Py_ssize_t start = 0; start < num_bytes && group->outcome == DONE; start += group->slot_bytes) {
        Py_ssize_t count = num_bytes - start < group->slot_bytes ? num_bytes - start : group->slot_bytes;
        char *place = out ? out + start : NULL;
        group->outcome = exchange_piece(group, ++group->number, in + start, count, place, num_bytes, adds);
    }
}

/* An operation of `ext.matmul`, whose steps are recorded: the group, floats, and their count. */
static int sum_floats(const long long *numbers) {
    char *floats = (char *)(uintptr_t)numbers[1];
    exchange_all((Group *)(uintptr_t)numbers[0], floats, numbers[2] * (Py_ssize_t)sizeof(float), floats, 1);
    return 0;
}

static void leave(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, NULL)); }

/* join(memory, stop, rank, size, slot_bytes, timeout_ms) -> capsule: one rank's end of a group
 *
 * `memory` begins with a line of 64 bytes for each rank, and two slots for each follow.
 */
static PyObject *join(PyObject *self, PyObject *args) {
    unsigned long long memory, stop;
    long long timeout_ms;
    Group of = {0};
    if (!PyArg_ParseTuple(args, "KKiinL", &memory, &stop, &of.rank, &of.size, &of.slot_bytes, &timeout_ms))
        return NULL;
    if (of.size < 2 || of.size > MOST_RANKS || of.rank < 0 || of.rank >= of.size)
        return PyErr_Format(PyExc_ValueError, "rank %d of %d", of.rank, of.size);
    if (of.slot_bytes <= 0 || of.slot_bytes % 64)
        return PyErr_Format(PyExc_ValueError, "slots of %zd bytes", of.slot_bytes);
    of.flags = (Flag *)(uintptr_t)memory;
    of.slots = (char *)(of.flags + of.size);
    of.stop = (_Atomic uint32_t *)(uintptr_t)stop;
    of.timeout_ns = timeout_ms * 1000000;
    Group *group = malloc(sizeof *group);
    if (!group)
        return PyErr_NoMemory();
    *group = of;
    PyObject *capsule = PyCapsule_New(group, NULL, leave);
    if (!capsule)
        free(group);
    return capsule;
}

/* addresses(group) -> (int, int): of the operation that sums floats, and of its first argument */
static PyObject *addresses(PyObject *self, PyObject *capsule) {
    Group *group = PyCapsule_GetPointer(capsule, NULL);
    return group ? Py_BuildValue("KK", (uintptr_t)sum_floats, (uintptr_t)group) : NULL;
}

/* exchange(group, in, num_bytes, out, adds)
 *
 * Adds up the floats at `in` of all ranks, or puts their bytes one after the other; nothing is read where
 * `out` is 0.
 */
static PyObject *exchange(PyObject *self, PyObject *args) {
    PyObject *capsule;
    unsigned long long in, out;
    Py_ssize_t num_bytes;
    int adds;
    if (!PyArg_ParseTuple(args, "OKnKi", &capsule, &in, &num_bytes, &out, &adds))
        return NULL;
    Group *group = PyCapsule_GetPointer(capsule, NULL);
    if (!group)
        return NULL;
    if (num_bytes < 0 || (adds && num_bytes % 4))
        return PyErr_Format(PyExc_ValueError, "%zd bytes", num_bytes);
    Py_BEGIN_ALLOW_THREADS
    exchange_all(group, (const char *)(uintptr_t)in, num_bytes, (char *)(uintptr_t)out, adds);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* outcome(group) -> (int, int): 0; 1 once another gave up; or 2 once some were late, and a bit for each */
static PyObject *outcome(PyObject *self, PyObject *capsule) {
    Group *group = PyCapsule_GetPointer(capsule, NULL);
    return group ? Py_BuildValue("iK", (int)group->outcome, (unsigned long long)group->missing) : NULL;
}

/* tell(memory, size, place, number, plan) -> int
 *
 * Writes a plan; returns a bit for each rank that does not wait for it, and has to be woken.
 */
static PyObject *tell(PyObject *self, PyObject *args) {
    unsigned long long memory, place, others = 0;
    int size;
    unsigned int number;
    Py_buffer bytes;
    if (!PyArg_ParseTuple(args, "KiKIy*", &memory, &size, &place, &number, &bytes))
        return NULL;
    Flag *flags = (Flag *)(uintptr_t)memory;
    Plan *plan = (Plan *)(uintptr_t)place;
    *plan = (Plan){.length = (uint32_t)bytes.len, .number = number, .written_ns = now_ns()};
    memcpy(plan + 1, bytes.buf, bytes.len);
    PyBuffer_Release(&bytes);
    atomic_store(&flags[0].told, number);
    int sleeps = 0;
    for (int rank = 1; rank < size; rank++) {
        uint32_t waits = atomic_load(&flags[rank].waits);
        sleeps |= waits == SLEEPS;
        if (waits == WAITS_NOT)
            others |= 1ULL << rank;
    }
    if (sleeps)
        syscall(SYS_futex, &flags[0].told, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    return PyLong_FromUnsignedLongLong(others);
}

static void wait_for_plan(_Atomic uint32_t *told, _Atomic uint32_t *waits, uint32_t number, int64_t most_ns) {
    int64_t start = now_ns(), waited = 0;
    atomic_store(waits, SPINS);
    while (atomic_load(told) != number && waited < most_ns) {
        for (int look = 0; look < LOOKS && atomic_load(told) != number; look++)
            relax();
        waited = now_ns() - start;
        if (waited < PLAN_SPIN_NS || waited >= most_ns)
            continue;
        atomic_store(waits, SLEEPS);
        struct timespec most = {.tv_nsec = most_ns - waited};
        uint32_t seen = atomic_load(told);
        if (seen != number)
            syscall(SYS_futex, told, FUTEX_WAIT, seen, &most, NULL, 0);
    }
    atomic_store(waits, WAITS_NOT);
}

/* hear(memory, rank, place, number, microseconds) -> (bytes, int) or None
 *
 * Returns the plan of that number and when it was written, in nanoseconds, once it is told; None if it is not
 * told in so much time, which is less than a second.
 */
static PyObject *hear(PyObject *self, PyObject *args) {
    unsigned long long memory, place;
    long long microseconds;
    int rank;
    unsigned int number;
    if (!PyArg_ParseTuple(args, "KiKIL", &memory, &rank, &place, &number, &microseconds))
        return NULL;
    Flag *flags = (Flag *)(uintptr_t)memory;
    _Atomic uint32_t *told = &flags[0].told;
    if (atomic_load(told) != number && microseconds > 0) {
        Py_BEGIN_ALLOW_THREADS
        wait_for_plan(told, &flags[rank].waits, number, microseconds * 1000);
        Py_END_ALLOW_THREADS
    }
    if (atomic_load(told) != number)
        Py_RETURN_NONE;
    const Plan *plan = (const Plan *)(uintptr_t)place;
    return Py_BuildValue("y#L", (const char *)(plan + 1), (Py_ssize_t)plan->length, (long long)plan->written_ns);
}

#define METHOD(name, arguments) {#name, name, arguments, NULL}

static PyMethodDef methods[] = {
    METHOD(join, METH_VARARGS),   METHOD(addresses, METH_O), METHOD(exchange, METH_VARARGS), METHOD(outcome, METH_O),
    METHOD(tell, METH_VARARGS), METHOD(hear, METH_VARARGS), {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "ext.ranks", .m_doc = "Sums and gathers between ranks.", .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_ranks(void) { return PyModule_Create(&module); }
