/* Vectors of codes in plain C. */

typedef const int8_t *CodeVector;

INLINE CodeVector load_weight_codes(const int8_t *from) { return from; }
INLINE CodeVector load_input_codes(const int8_t *from) { return from; }

/* The sums of four products, in each lane. */
INLINE Floats dot_codes(CodeVector weights, CodeVector inputs, const int32_t *offsets) {
    Floats sums;
    (void)offsets;
    for (int lane = 0; lane < LANES; lane++) {
        int total = 0;
        for (int i = 4 * lane; i < 4 * lane + 4; i++) total += weights[i] * inputs[i];
        sums[lane] = (float)total;
    }
    return sums;
}

/* Four lanes for each scale. */
INLINE Floats spread_groups(const float *scales) {
    Floats spread;
    for (int lane = 0; lane < LANES; lane++) spread[lane] = scales[lane / 4];
    return spread;
}

/* Eight lanes for each scale. */
INLINE Floats spread_blocks(const float *scales) {
    Floats spread;
    for (int lane = 0; lane < LANES; lane++) spread[lane] = scales[lane / 8];
    return spread;
}
