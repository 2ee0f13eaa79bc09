/* Vectors of 256 bits on x86-64. */

INLINE Floats load_halves(const uint16_t *from) {
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

/* bfloat16 is the upper half of a float. */
INLINE Floats load_bfloats(const uint16_t *from) {
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
}

INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

INLINE float sum(Floats of) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)of), _mm256_extractf128_ps((__m256)of, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE int sum_integers(Integers of) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128((__m256i)of), _mm256_extracti128_si256((__m256i)of, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

INLINE int largest_lane(Integers of) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)of), _mm256_extracti128_si256((__m256i)of, 1));
    __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

typedef __m128 FourFloats;

INLINE FourFloats sum_each(const Floats of[4]) {
    __m256 pairs = _mm256_hadd_ps((__m256)of[0], (__m256)of[1]);
    __m256 others = _mm256_hadd_ps((__m256)of[2], (__m256)of[3]);
    __m256 halves = _mm256_hadd_ps(pairs, others);
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}
