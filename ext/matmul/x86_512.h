/* Vectors of 512 bits on x86-64. */

INLINE Floats load_halves(const uint16_t *from) {
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

/* bfloat16 is the upper half of a float. */
INLINE Floats load_bfloats(const uint16_t *from) {
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

INLINE float sum(Floats of) { return _mm512_reduce_add_ps((__m512)of); }
INLINE int sum_integers(Integers of) { return _mm512_reduce_add_epi32((__m512i)of); }
INLINE int largest_lane(Integers of) { return _mm512_reduce_max_epi32((__m512i)of); }

typedef __m128 FourFloats;

INLINE __m512 sum_pairs(__m512 one, __m512 other) {
    return _mm512_add_ps(_mm512_unpacklo_ps(one, other), _mm512_unpackhi_ps(one, other));
}

INLINE FourFloats sum_each(const Floats of[4]) {
    __m512d pairs = (__m512d)sum_pairs((__m512)of[0], (__m512)of[1]);
    __m512d others = (__m512d)sum_pairs((__m512)of[2], (__m512)of[3]);
    __m512 quarters = _mm512_add_ps((__m512)_mm512_unpacklo_pd(pairs, others), (__m512)_mm512_unpackhi_pd(pairs, others));
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}
