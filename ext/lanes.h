/* Lanes of numbers: GCC's vectors, of eight and of sixteen, and what they have no terms for. */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8 };
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef uint8_t ubytes __attribute__((vector_size(LANES)));

enum { NOT_FINITE = 0x7f800000 }; /* bits of infinity; those of NaN are more */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

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

/* The nearest float16 of each, halves to the even one. None is negative, nor NaN. */
INLINE ints half_bits(floats values) {
    ints size = (ints)values, small = (ints)(values + 0.5f) - (ints)all(0.5f);
    ints normal = (size + 0xfff + (size >> 13 & 1) - (112 << 23)) >> 13;
    ints is_small = size < 0x38800000, is_large = size >= 0x477ff000; /* 2**-14, 65520 */
    return (is_large & 0x7c00) | (~is_large & ((is_small & small) | (~is_small & normal)));
}

/* The value of a float16 that is finite. */
INLINE float half_value(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    float value = size < 0x400 ? (float)size * 0x1p-24f : to_float((int32_t)((size << 13) + (112u << 23)));
    return to_float((int32_t)(bits_of(value) | sign));
}

/* --- sixteen lanes --------------------------------------------------------------------------------------- */

enum { WIDE = 16 };
typedef float wide_floats __attribute__((vector_size(4 * WIDE)));
typedef int32_t wide_ints __attribute__((vector_size(4 * WIDE)));
typedef uint16_t wide_halves __attribute__((vector_size(2 * WIDE)));
typedef int8_t wide_bytes __attribute__((vector_size(WIDE)));

INLINE wide_floats load_wide(const void *values, int kind, Py_ssize_t at) {
    if (kind == FLOAT32) {
        wide_floats x;
        memcpy(&x, (const float *)values + at, sizeof x);
        return x;
    }
    wide_halves stored;
    memcpy(&stored, (const uint16_t *)values + at, sizeof stored);
    return (wide_floats)(__builtin_convertvector(stored, wide_ints) << 16);
}

INLINE wide_ints larger(wide_ints a, wide_ints b) { wide_ints mask = a > b; return (mask & a) | (~mask & b); }

/* The larger of two lanes, of both vectors: PLACES are the first ones', and the second ones stand so far behind. */
#define FOLD(a, b, distance, ...)                                                                         \
    larger(__builtin_shuffle(a, b, (wide_ints){__VA_ARGS__}),                                             \
           __builtin_shuffle(a, b, (wide_ints){__VA_ARGS__} + (distance)))

/* The largest lane of each of eight vectors. */
INLINE ints most_of_each(const wide_ints of[8]) {
    wide_ints v[8], most;
    for (int i = 0; i < 4; i++)
        v[i] = FOLD(of[2 * i], of[2 * i + 1], 8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    for (int i = 0; i < 2; i++)
        v[i] = FOLD(v[2 * i], v[2 * i + 1], 4, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    most = FOLD(v[0], v[1], 2, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29);
    most = FOLD(most, most, 1, 0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    ints low;
    memcpy(&low, &most, sizeof low);
    return low;
}
