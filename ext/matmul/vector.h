/* Vectors of floats in the compiler's own terms, of LANES each. An instruction set's file may have defined what
 * it does better: HAS_HALVES. */
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define DOT_OUTS 4 /* sums that are made at once, of as many vectors */
#define UNROLL _Pragma("GCC unroll 16")

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef float AnyFloats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float AnyFour __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t AnyHalves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE Floats load_floats(const float *from) { return *(const AnyFloats *)from; }

INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* To the nearest, even where two are; NaN stays NaN. */
INLINE uint16_t bfloat_of(float value) {
    uint32_t bits = bits_of_float(value), nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : nearest);
}

INLINE void store_bfloats(Floats values, uint16_t *to) {
    const Words bits = (Words)values, nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Words is_nan = (Words)(values != values);
    *(AnyHalves *)to = __builtin_convertvector((is_nan & (bits >> 16 | 0x40)) | (~is_nan & nearest), Halves);
}

#ifndef HAS_HALVES
/* bfloat16 is the upper half of a float. */
INLINE Floats load_bfloats(const uint16_t *from) {
    return (Floats)(__builtin_convertvector(*(const AnyHalves *)from, Words) << 16);
}

/* The exponent of a half is moved by a multiplication, which also makes subnormal ones normal. */
INLINE Floats load_halves(const uint16_t *from) {
    Words bits = __builtin_convertvector(*(const AnyHalves *)from, Words);
    Words magnitude = (bits & 0x7fff) << 13;
    Floats value = (Floats)magnitude * 0x1p112f;
    Words special = (Words)(magnitude >= 0x0f800000u);
    return (Floats)((Words)value | (special & 0x7f800000u) | (bits & 0x8000) << 16);
}

INLINE float half_to_float(uint16_t half) {
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t bits = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000u) bits |= 0x7f800000u;
    return float_of_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

typedef float FourFloats __attribute__((vector_size(16)));

INLINE float sum(Floats of) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += of[i];
    return total;
}

INLINE int sum_integers(Integers of) {
    int total = 0;
    for (int i = 0; i < LANES; i++) total += of[i];
    return total;
}

INLINE int largest_lane(Integers of) {
    int most = of[0];
    for (int i = 1; i < LANES; i++) most = of[i] > most ? of[i] : most;
    return most;
}

INLINE FourFloats sum_each(const Floats of[4]) {
    return (FourFloats){sum(of[0]), sum(of[1]), sum(of[2]), sum(of[3])};
}
#endif
