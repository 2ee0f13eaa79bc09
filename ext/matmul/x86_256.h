/* Vectors of 256 bits on x86-64. */

INLINE Floats load_halves(const uint16_t *from) {
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

INLINE float sum(Floats of) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)of), _mm256_extractf128_ps((__m256)of, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
