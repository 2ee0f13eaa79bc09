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

typedef __m256i CodeVector;

INLINE CodeVector load_weight_codes(const int8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE CodeVector load_input_codes(const int8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

/* The sums of four products, in each lane. The instruction wants one factor without a sign: two of its products are
 * 2 * 128 * 127 at most, which 16 bits hold. */
INLINE Floats dot_codes(CodeVector weights, CodeVector inputs, const int32_t *offsets) {
    (void)offsets;
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
    return (Floats)_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Four lanes for each scale. */
INLINE Floats spread_groups(const float *scales) {
    return (Floats)_mm256_set_m128(_mm_set1_ps(scales[1]), _mm_set1_ps(scales[0]));
}

/* Eight lanes for each scale. */
INLINE Floats spread_blocks(const float *scales) { return (Floats)_mm256_set1_ps(*scales); }
