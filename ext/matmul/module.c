/* The Python face of it: pointers are integers, and nothing is checked that `ext.matmul` has checked before. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "product.h"

#define NUM_ARGUMENTS 15

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

static PyObject *multiply(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    long long numbers[NUM_ARGUMENTS];
    if (count != NUM_ARGUMENTS) return PyErr_Format(PyExc_TypeError, "multiply takes %d integers", NUM_ARGUMENTS);
    for (int i = 0; i < NUM_ARGUMENTS; i++) {
        numbers[i] = PyLong_AsLongLong(arguments[i]);
        if (numbers[i] == -1 && PyErr_Occurred()) return NULL;
    }
    int32_t rows = (int32_t)numbers[3];
    const int32_t *ends = (const int32_t *)numbers[13];
    Product of = {
        .format = (int)numbers[1],
        .x = (const float *)numbers[2],
        .rows = rows,
        .ins = (int)numbers[4],
        .parts = {(const uint8_t *)numbers[5], (const uint8_t *)numbers[6], (const uint8_t *)numbers[7]},
        .outs = (int)numbers[8],
        .group = (int)numbers[9],
        .bias = (const float *)numbers[10],
        .y = (float *)numbers[11],
        .threads = (int)numbers[12],
        .ends = ends ? ends : &rows,
        .matrices = (int)numbers[14],
    };
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = product(usable[numbers[0]], &of);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, NULL},
    {"formats", formats, METH_NOARGS, NULL},
    {"multiply", (PyCFunction)(void (*)(void))multiply, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_matmul", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__matmul(void) {
    usable = usable_kernels();
    return PyModuleDef_Init(&definition);
}
