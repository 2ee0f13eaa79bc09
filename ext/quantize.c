/* Quantizers of rows of weights, for many values a clock.
 *
 * Each has a twin in neuron/models/in_situ/reference.py that gives the same bytes: the same float32 operations
 * in the same order, none of them fused (setup.py sees to that), sums over 8 lanes that are added at the end
 * as `across` does. Lanes are GCC's vectors, which every target has; where the C library can choose at load
 * time, each quantizer is compiled for several instruction sets.
 *
 * All take the address of float32 or bfloat16 values and of their results, of the sizes that the twin says;
 * nothing is checked. They release the GIL and return whether all values are finite.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8 };
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef uint8_t ubytes __attribute__((vector_size(LANES)));

enum { NOT_FINITE = 0x7f800000 }; /* bits of infinity; those of NaN are more */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

/* --- lanes ---------------------------------------------------------------------------------------------- */

INLINE floats as_floats(ints bits) { return (floats)bits; }
INLINE floats all(float value) { return (floats){0} + value; }
INLINE floats choose(ints mask, floats yes, floats no) { return as_floats((mask & (ints)yes) | (~mask & (ints)no)); }
INLINE floats lesser(floats a, floats b) { return choose(a < b, a, b); }
INLINE floats greater(floats a, floats b) { return choose(a > b, a, b); }
INLINE ints greater_int(ints a, ints b) { ints mask = a > b; return (mask & a) | (~mask & b); }

/* Below 2**22, to the nearest integer and halves to the even one. */
INLINE floats nearest(floats x) { return (x + 12582912.0f) - 12582912.0f; }

INLINE floats load(const void *values, int kind, Py_ssize_t at) {
    if (kind == FLOAT32) {
        floats x;
        memcpy(&x, (const float *)values + at, sizeof x);
        return x;
    }
    halves stored;
    memcpy(&stored, (const uint16_t *)values + at, sizeof stored);
    return as_floats(__builtin_convertvector(stored, ints) << 16);
}

INLINE float across(floats v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

INLINE int32_t most_across(ints v) {
    v = greater_int(v, __builtin_shuffle(v, (ints){4, 5, 6, 7, 4, 5, 6, 7}));
    v = greater_int(v, __builtin_shuffle(v, (ints){2, 3, 2, 3, 2, 3, 2, 3}));
    return v[0] > v[1] ? v[0] : v[1];
}

INLINE float to_float(int32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
INLINE uint32_t bits_of(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
INLINE ints magnitude(floats x) { return (ints)x & 0x7fffffff; }

/* The nearest float16, halves to the even one. `value` is not NaN. */
INLINE uint16_t half_bits(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size >= 0x477ff000) /* 65520 and more */
        return sign | 0x7c00;
    if (size < 0x38800000) /* below 2**-14: a multiple of 2**-24, which is the last bit of 0.5 */
        return sign | (bits_of(to_float(size) + 0.5f) - bits_of(0.5f));
    return sign | (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
}

/* The value of a float16 that is finite. */
INLINE float half_value(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    float value = size < 0x400 ? (float)size * 0x1p-24f : to_float((int32_t)((size << 13) + (112u << 23)));
    return to_float((int32_t)(bits_of(value) | sign));
}

#define TINY 1e-36f /* a range that is not larger counts as zero: its inverse may be none */

INLINE float inverse_of(float scale) { return scale > TINY ? 1 / scale : 0; }

/* --- q8_0: blocks of 32: a float16 scale, 32 int8 -------------------------------------------------------- */

CLONES static int q8_0(const void *values, int kind, Py_ssize_t count, uint8_t *out) {
    int32_t largest = 0;
    for (Py_ssize_t at = 0; at < count; at += 32, out += 34) {
        floats x[4];
        ints most = {0};
        for (int j = 0; j < 4; j++) {
            x[j] = load(values, kind, at + j * LANES);
            most = greater_int(most, magnitude(x[j]));
        }
        int32_t size = most_across(most);
        largest = size > largest ? size : largest;
        float scale = to_float(size) / 127.0f, inverse = inverse_of(scale);
        uint16_t half = half_bits(scale);
        memcpy(out, &half, 2);
        for (int j = 0; j < 4; j++) { /* halves are rounded away from zero */
            floats scaled = x[j] * inverse;
            ints whole = __builtin_convertvector(scaled, ints);
            floats rest = scaled - __builtin_convertvector(whole, floats);
            bytes codes = __builtin_convertvector(whole - (rest >= 0.5f) + (rest <= -0.5f), bytes);
            memcpy(out + 2 + j * LANES, &codes, LANES);
        }
    }
    return largest < NOT_FINITE;
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
    uint16_t stored = half_bits(unit);
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
