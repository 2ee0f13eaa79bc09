/* The Python face of it: pointers are integers, and nothing is checked that `ext.matmul` has checked before. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention_step.h"
#include "delta_step.h"
#include "silu_gate_step.h"
#include "product.h"

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

/* Fill `numbers`, or raise. */
static int read_integers(PyObject *const *arguments, Py_ssize_t count, Py_ssize_t wanted, long long *numbers) {
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd integers instead of %zd", count, wanted);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyLong_AsLongLong(arguments[i]);
        if (numbers[i] == -1 && PyErr_Occurred()) return -1;
    }
    return 0;
}

static PyObject *multiply(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    long long numbers[15];
    if (read_integers(arguments, count, 15, numbers)) return NULL;
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

static PyObject *step_delta_rule(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    long long numbers[17];
    if (read_integers(arguments, count, 17, numbers)) return NULL;
    DeltaStep step = {
        .rows = (int)numbers[1],
        .key_heads = (int)numbers[2],
        .heads = (int)numbers[3],
        .key_dim = (int)numbers[4],
        .value_dim = (int)numbers[5],
        .states = (float *)numbers[6],
        .query = (const float *)numbers[7],
        .query_stride = (ptrdiff_t)numbers[8],
        .key = (const float *)numbers[9],
        .key_stride = (ptrdiff_t)numbers[10],
        .value = (const float *)numbers[11],
        .value_stride = (ptrdiff_t)numbers[12],
        .log_decay = (const float *)numbers[13],
        .strength = (const float *)numbers[14],
        .out = (float *)numbers[15],
        .threads = (int)numbers[16],
    };
    Py_BEGIN_ALLOW_THREADS
    delta_step(usable[numbers[0]], &step);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* The scale is passed as the bits of a float. */
static PyObject *attend(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    long long numbers[19];
    if (read_integers(arguments, count, 19, numbers)) return NULL;
    union { uint32_t bits; float value; } scale = {.bits = (uint32_t)numbers[16]};
    AttentionStep step = {
        .stored = (Stored)numbers[1],
        .rows = (int)numbers[2],
        .heads = (int)numbers[3],
        .key_heads = (int)numbers[4],
        .key_dim = (int)numbers[5],
        .value_dim = (int)numbers[6],
        .query = (const float *)numbers[7],
        .query_stride = (ptrdiff_t)numbers[8],
        .keys = (const uint8_t *)numbers[9],
        .values = (const uint8_t *)numbers[10],
        .page_size = (int)numbers[11],
        .pages = (const int64_t *)numbers[12],
        .pages_per_row = (int)numbers[13],
        .ends = (const int64_t *)numbers[14],
        .window = (int)numbers[15],
        .scale = scale.value,
        .out = (float *)numbers[17],
        .threads = (int)numbers[18],
    };
    Py_BEGIN_ALLOW_THREADS
    attention_step(usable[numbers[0]], &step);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *silu_gate(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    long long numbers[6];
    if (read_integers(arguments, count, 6, numbers)) return NULL;
    SiluGateStep step = {
        .rows = (int)numbers[1],
        .width = (int)numbers[2],
        .gate_up = (const float *)numbers[3],
        .out = (float *)numbers[4],
        .threads = (int)numbers[5],
    };
    Py_BEGIN_ALLOW_THREADS
    silu_gate_step(usable[numbers[0]], &step);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, NULL},
    {"formats", formats, METH_NOARGS, NULL},
    {"multiply", (PyCFunction)(void (*)(void))multiply, METH_FASTCALL, NULL},
    {"attend", (PyCFunction)(void (*)(void))attend, METH_FASTCALL, NULL},
    {"silu_gate", (PyCFunction)(void (*)(void))silu_gate, METH_FASTCALL, NULL},
    {"step_delta_rule", (PyCFunction)(void (*)(void))step_delta_rule, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_matmul", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__matmul(void) {
    usable = usable_kernels();
    return PyModuleDef_Init(&definition);
}
