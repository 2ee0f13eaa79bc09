/* Quantizers of rows of weights, for many values a clock.
 *
 * Each has a twin in neuron/models/in_situ/reference.py that gives the same bytes: the same float32 operations
 * in the same order, none of them fused (setup.py sees to that), sums over 8 lanes that are added at the end
 * as `across` does. Every target has such vectors; where the C library can choose at load
 * time, each quantizer is compiled for several instruction sets.
 *
 * All take the address of float32 or bfloat16 values and of their results, of the sizes that the twin says;
 * nothing is checked. They release the GIL and return whether all values are finite.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "lanes.h"

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define TINY 1e-36f /* a range that is not larger counts as zero: its inverse may be none */

INLINE float inverse_of(float scale) { return scale > TINY ? 1 / scale : 0; }

/* --- q8_0: blocks of 32: a float16 scale, 32 int8 -------------------------------------------------------- */

/* To the nearest integer, halves away from zero: the float below 0.5 brings no other number to the next. */
INLINE wide_bytes codes_of(wide_floats scaled) {
    wide_ints below_half = (wide_ints){0} + 0x3effffff, sign = (wide_ints)scaled & INT32_MIN;
    wide_ints whole = __builtin_convertvector(scaled + (wide_floats)(below_half | sign), wide_ints);
    return __builtin_convertvector(whole, wide_bytes);
}

enum { TOGETHER = 8 }; /* blocks */

/* Eight blocks; returns their largest magnitudes' bits. */
INLINE ints q8_0_blocks(const void *values, int kind, Py_ssize_t at, uint8_t *out) {
    wide_floats x[TOGETHER][2];
    wide_ints most[TOGETHER];
    for (int block = 0; block < TOGETHER; block++) {
        for (int i = 0; i < 2; i++) x[block][i] = load_wide(values, kind, at + 32 * block + WIDE * i);
        most[block] = larger((wide_ints)x[block][0] & 0x7fffffff, (wide_ints)x[block][1] & 0x7fffffff);
    }
    ints sizes = most_of_each(most);
    floats scales = (floats)sizes / 127.0f, inverses = choose(scales > TINY, 1 / scales, all(0));
    ints halves_of_scales = half_bits(scales);
    for (int block = 0; block < TOGETHER; block++, out += 34) {
        uint16_t half = (uint16_t)halves_of_scales[block];
        memcpy(out, &half, 2);
        for (int i = 0; i < 2; i++) {
            wide_bytes codes = codes_of(x[block][i] * inverses[block]);
            memcpy(out + 2 + WIDE * i, &codes, WIDE);
        }
    }
    return sizes;
}

INLINE int q8_0_of(const void *values, int kind, Py_ssize_t count, uint8_t *out) {
    ints largest = {0};
    Py_ssize_t at = 0, item = kind == FLOAT32 ? 4 : 2;
    for (; at + 32 * TOGETHER <= count; at += 32 * TOGETHER)
        largest = greater_int(largest, q8_0_blocks(values, kind, at, out + at / 32 * 34));
    if (at < count) { /* the last few, and zeros */
        uint8_t last[32 * TOGETHER * 4] = {0}, made[TOGETHER * 34];
        memcpy(last, (const uint8_t *)values + at * item, (count - at) * item);
        largest = greater_int(largest, q8_0_blocks(last, kind, 0, made));
        memcpy(out + at / 32 * 34, made, (count - at) / 32 * 34);
    }
    return most_across(largest) < NOT_FINITE;
}

CLONES static int q8_0(const void *values, int kind, Py_ssize_t count, uint8_t *out) {
    return kind == FLOAT32 ? q8_0_of(values, FLOAT32, count, out) : q8_0_of(values, BFLOAT16, count, out);
}

/* --- q4_k: blocks of 256: two float16, 8 scales and minima of 6 bits, 256 codes of 4 bits ---------------- */

/* A run's values are about scale * code - minimum. A lane is one of a block's 8 runs of 32 values. */
INLINE void fit_runs(const floats x[32], floats *scale, floats *minimum) {
    static const float LEVELS[] = {15.2f, 14.8f, 14.0f};
    floats low = {0}, high = x[0], sum = {0};
    for (int i = 0; i < 32; i++) {
        low = lesser(low, x[i]);
        high = greater(high, x[i]);
        sum += x[i];
    }
    floats range = high - low, best = all(-1.0f);
    *scale = all(0.0f);
    *minimum = all(0.0f) - low;
    for (size_t level = 0; level < sizeof LEVELS / sizeof *LEVELS; level++) {
        floats inverse = choose(range > TINY, LEVELS[level] / range, all(0.0f));
        floats q_sum = {0}, qq_sum = {0}, qx_sum = {0};
        for (int i = 0; i < 32; i++) {
            floats q = nearest(lesser((x[i] - low) * inverse, all(15.0f)));
            q_sum += q;
            qq_sum += q * q;
            qx_sum += q * x[i];
        }
        /* least squares of scale * code + offset; the offset may not be above 0 */
        floats determinant = 32.0f * qq_sum - q_sum * q_sum;
        floats slope = (32.0f * qx_sum - q_sum * sum) / determinant;
        floats offset = (qq_sum * sum - q_sum * qx_sum) / determinant;
        ints through_zero = offset > 0.0f;
        slope = choose(through_zero, qx_sum / qq_sum, slope);
        offset = choose(through_zero, all(0.0f), offset);
        floats explained = slope * qx_sum + offset * sum; /* of the squares' sum: the rest is the error */
        ints is_best = (determinant > 0.0f) & (slope > 0.0f) & (explained > best);
        best = choose(is_best, explained, best);
        *scale = choose(is_best, slope, *scale);
        *minimum = choose(is_best, all(0.0f) - offset, *minimum);
    }
}

INLINE float most_of(floats v) {
    v = greater(v, __builtin_shuffle(v, (ints){4, 5, 6, 7, 4, 5, 6, 7}));
    v = greater(v, __builtin_shuffle(v, (ints){2, 3, 2, 3, 2, 3, 2, 3}));
    return v[0] > v[1] ? v[0] : v[1];
}

/* Writes a block's common factor as float16 and returns it times each lane's number of 6 bits. */
INLINE floats six_bits(floats wanted, uint8_t *half, int32_t numbers[8]) {
    float unit = most_of(wanted) / 63.0f, inverse = inverse_of(unit);
    uint16_t stored = (uint16_t)half_bits(all(unit))[0];
    memcpy(half, &stored, 2);
    floats rounded = nearest(lesser(wanted * inverse, all(63.0f)));
    ints whole = __builtin_convertvector(rounded, ints);
    memcpy(numbers, &whole, sizeof whole);
    return half_value(stored) * rounded;
}

CLONES static int q4_k(const void *values, int kind, Py_ssize_t count, uint8_t *out) {
    int32_t largest = 0;
    for (Py_ssize_t at = 0; at < count; at += 256, out += 144) {
        float rows[8][32], columns[32][8];
        floats x[32], scale, minimum;
        ints most = {0};
        for (int j = 0; j < 32; j++) {
            floats loaded = load(values, kind, at + j * LANES);
            most = greater_int(most, magnitude(loaded));
            memcpy(&rows[j / 4][j % 4 * LANES], &loaded, sizeof loaded);
        }
        int32_t size = most_across(most);
        largest = size > largest ? size : largest;
        if (largest >= NOT_FINITE)
            return 0;
        for (int i = 0; i < 32; i++)
            for (int run = 0; run < 8; run++)
                columns[i][run] = rows[run][i];
        memcpy(x, columns, sizeof x);
        fit_runs(x, &scale, &minimum);

        int32_t scales[8], minima[8];
        scale = six_bits(scale, out, scales);
        minimum = six_bits(minimum, out + 2, minima);
        for (int run = 0; run < 4; run++) {
            out[4 + run] = scales[run] | scales[run + 4] >> 4 << 6;
            out[8 + run] = minima[run] | minima[run + 4] >> 4 << 6;
            out[12 + run] = (scales[run + 4] & 15) | (minima[run + 4] & 15) << 4;
        }
        floats inverse = choose(scale > TINY, 1.0f / scale, all(0.0f));
        uint8_t codes[32][8];
        for (int i = 0; i < 32; i++) {
            floats q = nearest(greater(lesser((x[i] + minimum) * inverse, all(15.0f)), all(0.0f)));
            ubytes whole = __builtin_convertvector(__builtin_convertvector(q, ints), ubytes);
            memcpy(codes[i], &whole, LANES);
        }
        for (int i = 0; i < 32; i++)
            for (int pair = 0; pair < 4; pair++)
                out[16 + pair * 32 + i] = codes[i][2 * pair] | codes[i][2 * pair + 1] << 4;
    }
    return 1;
}

/* --- int4: codes of 4 bits, a float32 scale and a code for zero for each group --------------------------- */

INLINE int int4_groups(const void *values, int kind, Py_ssize_t count, uint8_t *codes, float *scales,
                       uint8_t *zeros, const int vectors) {
    static const float SHARES[] = {1.0f, 0.92f, 0.84f}; /* of the range that 16 codes cover */
    int32_t largest = 0;
    for (Py_ssize_t at = 0; at < count; at += vectors * LANES, codes += vectors * LANES / 2) {
        floats x[16], low = {0}, high = {0};
        ints most = {0};
        for (int j = 0; j < vectors; j++) {
            x[j] = load(values, kind, at + j * LANES);
            most = greater_int(most, magnitude(x[j]));
            low = lesser(low, x[j]);
            high = greater(high, x[j]);
        }
        int32_t size = most_across(most);
        largest = size > largest ? size : largest;
        float bottom = most_of(all(0.0f) - low), range = most_of(high) + bottom;
        float scale = 0, inverse = 0, zero = 0, best = -1;
        for (size_t share = 0; share < sizeof SHARES / sizeof *SHARES; share++) {
            float covered = range * SHARES[share], factor = covered > TINY ? 15.0f / covered : 0;
            float origin = nearest(all(bottom * SHARES[share] * factor))[0];
            floats qq = {0}, qx = {0}, floor = all(-origin), ceiling = all(15.0f - origin);
            for (int j = 0; j < vectors; j++) {
                floats q = nearest(greater(lesser(x[j] * factor, ceiling), floor));
                qq += q * q;
                qx += q * x[j];
            }
            float squares = across(qq), product = across(qx);
            float slope = squares > 0 ? product / squares : 0, explained = slope * product;
            if (explained > best) {
                best = explained;
                scale = slope;
                inverse = factor;
                zero = origin;
            }
        }
        *scales++ = scale;
        *zeros++ = (uint8_t)zero;
        for (int j = 0; j < vectors; j++) {
            floats q = nearest(greater(lesser(x[j] * inverse, all(15.0f - zero)), all(-zero))) + zero;
            ints whole = __builtin_convertvector(q, ints);
            ints paired = whole | __builtin_shuffle(whole, (ints){1, 1, 3, 3, 5, 5, 7, 7}) << 4;
            paired = __builtin_shuffle(paired, (ints){0, 2, 4, 6, 0, 2, 4, 6});
            ubytes packed = __builtin_convertvector(paired, ubytes);
            memcpy(codes + j * LANES / 2, &packed, LANES / 2);
        }
    }
    return largest < NOT_FINITE;
}

CLONES static int int4(const void *values, int kind, Py_ssize_t count, Py_ssize_t group, uint8_t *codes,
                       float *scales, uint8_t *zeros) {
    if (group == 128)
        return int4_groups(values, kind, count, codes, scales, zeros, 128 / LANES);
    return int4_groups(values, kind, count, codes, scales, zeros, 32 / LANES);
}

/* --- fp8: e4m3 codes and a float32 scale for each row ---------------------------------------------------- */

CLONES static int fp8(const void *values, int kind, Py_ssize_t count, Py_ssize_t width, uint8_t *codes,
                      float *scales) {
    int32_t largest = 0;
    Py_ssize_t whole = width / LANES * LANES;
    for (Py_ssize_t start = 0; start < count; start += width) {
        ints most = {0};
        floats tail = {0};
        for (Py_ssize_t at = whole; at < width; at++)
            tail[at - whole] = kind == FLOAT32 ? ((const float *)values)[start + at]
                                               : to_float((int32_t)((const uint16_t *)values)[start + at] << 16);
        for (Py_ssize_t at = 0; at < width; at += LANES)
            most = greater_int(most, magnitude(at < whole ? load(values, kind, start + at) : tail));
        int32_t size = most_across(most);
        largest = size > largest ? size : largest;
        float scale = to_float(size) / 448.0f, inverse = inverse_of(scale);
        *scales++ = scale;
        for (Py_ssize_t at = 0; at < width; at += LANES) {
            floats x = (at < whole ? load(values, kind, start + at) : tail) * inverse;
            ints bits = magnitude(x), sign = ((ints)x >> 24) & 0x80;
            /* from 2**-6 on: 3 bits of fraction; below: a multiple of 2**-9, which is the last bit of 2**14 */
            ints normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
            ints small = (ints)(as_floats(bits) + 16384.0f) - (ints)all(16384.0f);
            ints is_small = bits < 0x3c800000;
            ints code = (is_small & small) | (~is_small & normal) | sign;
            ubytes packed = __builtin_convertvector(code, ubytes);
            memcpy(codes + start + at, &packed, at < whole ? LANES : width - whole);
        }
    }
    return largest < NOT_FINITE;
}

/* --- Python ---------------------------------------------------------------------------------------------- */

#define POINTER(address) ((void *)(uintptr_t)(address))

/* name(values, kind, count, blocks) */
#define BLOCKS(name)                                                                                      \
    static PyObject *py_##name(PyObject *self, PyObject *args) {                                          \
        unsigned long long values, out;                                                                   \
        Py_ssize_t count;                                                                                 \
        int kind, finite;                                                                                 \
        if (!PyArg_ParseTuple(args, "KinK", &values, &kind, &count, &out))                                \
            return NULL;                                                                                  \
        Py_BEGIN_ALLOW_THREADS                                                                            \
        finite = name(POINTER(values), kind, count, POINTER(out));                                        \
        Py_END_ALLOW_THREADS                                                                              \
        return PyBool_FromLong(finite);                                                                   \
    }

BLOCKS(q8_0)
BLOCKS(q4_k)

/* int4(values, kind, count, group, codes, scales, zeros) */
static PyObject *py_int4(PyObject *self, PyObject *args) {
    unsigned long long values, codes, scales, zeros;
    Py_ssize_t count, group;
    int kind, finite;
    if (!PyArg_ParseTuple(args, "KinnKKK", &values, &kind, &count, &group, &codes, &scales, &zeros))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    finite = int4(POINTER(values), kind, count, group, POINTER(codes), POINTER(scales), POINTER(zeros));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

/* fp8(values, kind, count, width, codes, scales) */
static PyObject *py_fp8(PyObject *self, PyObject *args) {
    unsigned long long values, codes, scales;
    Py_ssize_t count, width;
    int kind, finite;
    if (!PyArg_ParseTuple(args, "KinnKK", &values, &kind, &count, &width, &codes, &scales))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    finite = fp8(POINTER(values), kind, count, width, POINTER(codes), POINTER(scales));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

#define METHOD(name) {#name, py_##name, METH_VARARGS, NULL}

static PyMethodDef methods[] = {METHOD(q8_0), METHOD(q4_k), METHOD(int4), METHOD(fp8), {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "ext.quantize", .m_doc = "Quantizers of rows of weights.", .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_quantize(void) { return PyModule_Create(&module); }
