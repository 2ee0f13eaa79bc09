/* Vectors of 512 bits on x86-64. */

INLINE Floats load_halves(const uint16_t *from) {
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

INLINE float sum(Floats of) { return _mm512_reduce_add_ps((__m512)of); }

typedef __m512i CodeVector;

INLINE CodeVector load_input_codes(const int8_t *from) { return _mm512_loadu_si512(from); }

/* Four lanes for each scale. */
INLINE Floats spread_groups(const float *scales) {
    const __m512i places = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return (Floats)_mm512_permutexvar_ps(places, _mm512_castps128_ps512(_mm_loadu_ps(scales)));
}

/* Eight lanes for each scale. */
INLINE Floats spread_blocks(const float *scales) {
    const __m512i places = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return (Floats)_mm512_permutexvar_ps(places, _mm512_castps128_ps512(_mm_loadu_ps(scales)));
}

#ifdef HAS_VNNI
/* The instruction wants one factor without a sign: weights are 128 more than they are, and `offsets` less. */
INLINE CodeVector load_weight_codes(const int8_t *from) {
    return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
}

/* The sums of four products, in each lane. */
INLINE Floats dot_codes(CodeVector weights, CodeVector inputs, const int32_t *offsets) {
    __m512i sums = _mm512_dpbusd_epi32(_mm512_loadu_si512(offsets), weights, inputs);
    return (Floats)_mm512_cvtepi32_ps(sums);
}
#else
INLINE CodeVector load_weight_codes(const int8_t *from) { return _mm512_loadu_si512(from); }

INLINE Floats dot_codes(CodeVector weights, CodeVector inputs, const int32_t *offsets) {
    (void)offsets;
    __m512i zero = _mm512_setzero_si512();
    __m512i signed_inputs = _mm512_mask_sub_epi8(inputs, _mm512_movepi8_mask(weights), zero, inputs);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), signed_inputs);
    return (Floats)_mm512_cvtepi32_ps(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
