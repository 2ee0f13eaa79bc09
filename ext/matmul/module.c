/* The Python face of it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "formats.h"
#include "operations.h"

static const Kernels *const *usable;

static PyObject *instruction_sets(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (const Kernels *const *kernels = usable; names && *kernels; kernels++) {
        PyObject *name = PyUnicode_FromString((*kernels)->name);
        if (!name || PyList_Append(names, name)) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *formats(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    const Kernels *kernels = *usable;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < kernels->num_formats; i++) {
        const Format *format = &kernels->formats[i];
        PyObject *row = Py_BuildValue("(sii)", format->name, format->elements, format->bytes);
        if (!row || PyList_Append(names, row)) Py_CLEAR(names);
        Py_XDECREF(row);
    }
    return names;
}

/* What this thread records its calls in, or NULL. */
static _Thread_local Program *recording;

/* Fill `numbers`, or raise. */
static int read_integers(PyObject *const *arguments, Py_ssize_t count, const OperationRow *row, long long *numbers) {
    if (count != row->count) {
        PyErr_Format(PyExc_TypeError, "%s takes %d integers, not %zd", row->name, row->count, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyLong_AsLongLong(arguments[i]);
        if (numbers[i] == -1 && PyErr_Occurred()) return -1;
    }
    return 0;
}

static PyObject *call(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    const OperationRow *row = PyCapsule_GetPointer(self, NULL);
    long long numbers[MOST_NUMBERS] = {0};
    if (!row || read_integers(arguments, count, row, numbers)) return NULL;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = row->run(numbers);
    if (!failed && recording)
        failed = program_add(recording, row->run, numbers, row->reading ? row->reading(numbers) : (Reading){0});
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static void free_program(PyObject *capsule) { program_free(PyCapsule_GetPointer(capsule, NULL)); }

static PyObject *record(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    program_free(recording);
    if (!(recording = program_new())) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *recorded(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    if (recording) program_end(recording);
    PyObject *capsule = recording ? PyCapsule_New(recording, NULL, free_program) : NULL;
    if (!recording) PyErr_SetString(PyExc_RuntimeError, "nothing is recorded");
    if (capsule) recording = NULL;
    return capsule;
}

static PyObject *replay(PyObject *self, PyObject *capsule) {
    (void)self;
    const Program *program = PyCapsule_GetPointer(capsule, NULL);
    if (!program) return NULL;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = program_run(program);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, NULL},
    {"formats", formats, METH_NOARGS, NULL},
    {"record", record, METH_NOARGS, NULL},
    {"recorded", recorded, METH_NOARGS, NULL},
    {"replay", replay, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* A function for each operation, which finds its row in what it is bound to. */
static int add_operations(PyObject *module) {
    static PyMethodDef definitions[32];
    for (int i = 0; i < num_operations; i++) {
        definitions[i] = (PyMethodDef){operations[i].name, (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL};
        PyObject *row = PyCapsule_New((void *)&operations[i], NULL, NULL);
        PyObject *function = row ? PyCFunction_New(&definitions[i], row) : NULL;
        Py_XDECREF(row);
        int failed = !function || PyModule_AddObjectRef(module, operations[i].name, function);
        Py_XDECREF(function);
        if (failed) return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_operations}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_matmul", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__matmul(void) {
    usable = usable_kernels();
    return PyModuleDef_Init(&definition);
}
