/* Codes with scales beside them, one for each group of inputs, multiplied by inputs as they are. Of one row the values
 * stay in registers; of more, `multiply_values` makes floats of a few outputs at a time. */

#define AT_ONCE 32
#define VECTORS (AT_ONCE / LANES)

INLINE void floats_of_codes(SignedBytes codes, Floats *values) {
#if LANES == 16
    values[0] = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128((__m256i)codes)));
    values[1] = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256((__m256i)codes, 1)));
#else
    int8_t places[AT_ONCE];
    STORE(SignedBytes, codes, places);
    UNROLL for (int i = 0; i < VECTORS; i++) {
        float floats[LANES];
        for (int lane = 0; lane < LANES; lane++) floats[lane] = (float)places[i * LANES + lane];
        values[i] = load_floats(floats);
    }
#endif
}

/* Of 16 bytes: the codes in order, each byte's lower half first. */
INLINE Bytes load_pairs(const uint8_t *from) {
    Words16 pairs = __builtin_convertvector(LOAD(Bytes16, from), Words16);
    return (Bytes)(pairs | pairs << 4) & 15;
}

INLINE void values_int4(const uint8_t *from, int zero, Floats *values) {
    floats_of_codes((SignedBytes)load_pairs(from) - (int8_t)zero, values);
}

INLINE void values_int8(const uint8_t *from, int zero, Floats *values) {
    floats_of_codes((SignedBytes)(LOAD(Bytes, from) ^ 128), values);
    if (zero == 128) return;
    UNROLL for (int i = 0; i < VECTORS; i++) values[i] += (float)(128 - zero);
}

/* A float16 has the same bits, but 2 ** 8 less. What is NaN there, is a number here: it is put right. */
INLINE void values_fp8(const uint8_t *from, int zero, Floats *values) {
    (void)zero;
    uint16_t halves[AT_ONCE];
    const Bytes codes = LOAD(Bytes, from);
    const Bytes is_nan = (Bytes)((codes & 0x7f) == 0x7f);
    UNROLL for (int i = 0; i < AT_ONCE; i++) halves[i] = (uint16_t)((int8_t)from[i] * 128) & 0xbfff;
    UNROLL for (int i = 0; i < VECTORS; i++) values[i] = load_halves(halves + i * LANES) * 0x1p8f;
    const Quads any = (Quads)is_nan;
    if (any[0] | any[1] | any[2] | any[3])
        for (int i = 0; i < AT_ONCE; i++)
            if (is_nan[i]) values[i / LANES][i % LANES] = NAN;
}

INLINE void values_of_table(const float *table, const uint8_t *from, Floats *values) {
#if LANES == 16
    const __m512 all = _mm512_loadu_ps(table);
    const __m256i codes = (__m256i)load_pairs(from);
    values[0] = (Floats)_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(codes)), all);
    values[1] = (Floats)_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(codes, 1)), all);
#elif defined(HAS_AVX2)
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    uint8_t codes[AT_ONCE];
    STORE(Bytes, load_pairs(from), codes);
    UNROLL for (int i = 0; i < VECTORS; i++) {
        const __m256i places = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + 8 * i)));
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(places, 28)); /* its sign: whether it is */
        values[i] = (Floats)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, places), _mm256_permutevar8x32_ps(high, places), upper);
    }
#else
    uint8_t codes[AT_ONCE];
    STORE(Bytes, load_pairs(from), codes);
    for (int i = 0; i < AT_ONCE; i++) values[i / LANES][i % LANES] = table[codes[i]];
#endif
}

static const float nf4_values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
static const float fp4_values[16] = {
    0.0f, 0.005208333333333333f, 2.0f / 3, 1.0f, 1.0f / 3, 0.5f, 1.0f / 6, 0.25f,
    -0.0f, -0.005208333333333333f, -2.0f / 3, -1.0f, -1.0f / 3, -0.5f, -1.0f / 6, -0.25f};

INLINE void values_nf4(const uint8_t *from, int zero, Floats *values) {
    (void)zero;
    values_of_table(nf4_values, from, values);
}

INLINE void values_fp4(const uint8_t *from, int zero, Floats *values) {
    (void)zero;
    values_of_table(fp4_values, from, values);
}

/* Of a group's codes. */
typedef void (*Values)(const uint8_t *from, int zero, Floats *values);

INLINE Floats dot_group(Values load, const int bits, const uint8_t *codes, int zero, const float *x, int count) {
    Floats sums[VECTORS], values[VECTORS];
    UNROLL for (int i = 0; i < VECTORS; i++) sums[i] = (Floats){0};
    int at = 0;
    for (; at + AT_ONCE <= count; at += AT_ONCE) {
        load(codes + at * bits / 8, zero, values);
        UNROLL for (int i = 0; i < VECTORS; i++) sums[i] += values[i] * load_floats(x + at + i * LANES);
    }
    if (at < count) {
        uint8_t last_codes[AT_ONCE] = {0};
        float last_x[AT_ONCE] = {0};
        memcpy(last_codes, codes + at * bits / 8, (count - at) * bits / 8);
        memcpy(last_x, x + at, (count - at) * sizeof *x);
        load(last_codes, zero, values);
        UNROLL for (int i = 0; i < VECTORS; i++) sums[i] += values[i] * load_floats(last_x + i * LANES);
    }
    UNROLL for (int i = 1; i < VECTORS; i++) sums[0] += sums[i];
    return sums[0];
}

INLINE void scale_group(Values load, const int bits, const uint8_t *codes, int zero, float scale, float *to, int count) {
    Floats values[VECTORS];
    int at = 0;
    for (; at + AT_ONCE <= count; at += AT_ONCE) {
        load(codes + at * bits / 8, zero, values);
        UNROLL for (int i = 0; i < VECTORS; i++) STORE(Floats, values[i] * scale, to + at + i * LANES);
    }
    if (at == count) return;
    uint8_t last[AT_ONCE] = {0};
    memcpy(last, codes + at * bits / 8, (count - at) * bits / 8);
    load(last, zero, values);
    for (int i = 0; at + i < count; i++) to[at + i] = values[i / LANES][i % LANES] * scale;
}

INLINE int zero_of(const Row *row, int group, const int bits) {
    return row->parts[2] ? row->parts[2][group] : 1 << (bits - 1);
}

INLINE void dequantize_codes(Values load, const int bits, const Row *row, float *to) {
    for (int group = 0; group * row->group < row->ins; group++) {
        const int at = group * row->group;
        const float scale = LOAD(float, row->parts[1] + 4 * group);
        scale_group(load, bits, row->parts[0] + at * bits / 8, zero_of(row, group, bits), scale, to + at, row->group);
    }
}

INLINE float dot_codes(Values load, const int bits, const Row *row, const float *x) {
    Floats sums = {0};
    for (int group = 0; group * row->group < row->ins; group++) {
        const int at = group * row->group;
        const float scale = LOAD(float, row->parts[1] + 4 * group);
        sums += dot_group(load, bits, row->parts[0] + at * bits / 8, zero_of(row, group, bits), x + at, row->group) * scale;
    }
    return sum(sums);
}

#define SCALED_CODES(NAME, BITS)                                                                                     \
    static void dequantize_##NAME(const Row *row, float *to) { dequantize_codes(values_##NAME, BITS, row, to); }     \
    static void multiply_##NAME(const Work *work) {                                                                  \
        if (work->rows > 1) {                                                                                        \
            multiply_values(work);                                                                                   \
            return;                                                                                                  \
        }                                                                                                            \
        for (int out = 0; out < work->outs; out++) {                                                                 \
            const Row row = row_at(work, out);                                                                       \
            work->y[out] = dot_codes(values_##NAME, BITS, &row, (const float *)work->x) +                            \
                           (work->bias ? work->bias[out] : 0);                                                       \
        }                                                                                                            \
    }
SCALED_CODES(int4, 4)
SCALED_CODES(int8, 8)
SCALED_CODES(fp8, 8)
SCALED_CODES(nf4, 4)
SCALED_CODES(fp4, 4)
