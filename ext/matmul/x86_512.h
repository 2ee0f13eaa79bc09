/* Vectors of 512 bits on x86-64. */

INLINE Floats load_halves(const uint16_t *from) {
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

INLINE float sum(Floats of) { return _mm512_reduce_add_ps((__m512)of); }
