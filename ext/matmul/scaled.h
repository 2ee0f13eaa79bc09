/* Codes with scales beside them, one for each group of inputs, multiplied by inputs as they are. By a few rows
 * their values are multiplied from registers; for more, `multiply_values` makes floats of them. */

#define AT_ONCE 32
#define VECTORS (AT_ONCE / LANES)
#define DOT_MOST_ROWS 4 /* by which codes are multiplied at once */
#define FEW_ROWS 12     /* for more it pays to make floats of codes once */

INLINE void floats_of_codes(SignedBytes codes, Floats *values) {
#if LANES == 16
    values[0] = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128((__m256i)codes)));
    values[1] = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256((__m256i)codes, 1)));
#elif defined(HAS_AVX2)
    const __m128i halves[] = {_mm256_castsi256_si128((__m256i)codes), _mm256_extracti128_si256((__m256i)codes, 1)};
    UNROLL for (int i = 0; i < 4; i++) {
        const __m128i eight = i % 2 ? _mm_unpackhi_epi64(halves[i / 2], halves[i / 2]) : halves[i / 2];
        values[i] = (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
    }
#elif defined(HAS_NEON)
    int8_t places[AT_ONCE];
    STORE(SignedBytes, codes, places);
    UNROLL for (int i = 0; i < VECTORS; i += 2) {
        const int16x8_t eight = vmovl_s8(vld1_s8(places + i * LANES));
        values[i] = (Floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight)));
        values[i + 1] = (Floats)vcvtq_f32_s32(vmovl_high_s16(eight));
    }
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
#ifdef HAS_AVX2
    const Words16 pairs = (Words16)_mm256_cvtepu8_epi16(LOAD(__m128i, from));
#else
    const Words16 pairs = __builtin_convertvector(LOAD(Bytes16, from), Words16);
#endif
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
        const __m256 of_low = _mm256_permutevar8x32_ps(low, places), of_high = _mm256_permutevar8x32_ps(high, places);
        values[i] = (Floats)_mm256_blendv_ps(of_low, of_high, upper);
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

/* Of AT_ONCE codes. */
typedef void (*Values)(const uint8_t *from, int zero, Floats *values);

/* Of the last few codes, and zeros behind them. */
INLINE void last_values(Values load, const int bits, const uint8_t *from, int zero, Floats *values, int count) {
    uint8_t last[AT_ONCE] = {0};
    memcpy(last, from, count * bits / 8);
    load(last, zero, values);
}

INLINE int zero_of(const Row *row, int group, const int bits) {
    return row->parts[2] ? row->parts[2][group] : 1 << (bits - 1);
}

INLINE float scale_of(const Row *row, int group) { return LOAD(float, row->parts[1] + 4 * group); }

/* Add a group's products by a few rows of inputs. */
INLINE void add_group(Values load, const int bits, const Row *row, int group, const float *const *x, const int rows,
                      Floats *sums) {
    const int end = (group + 1) * row->group, zero = zero_of(row, group, bits);
    Floats values[VECTORS], parts[DOT_MOST_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++) parts[r][0] = parts[r][1] = (Floats){0};
    int at = group * row->group;
    for (; at + AT_ONCE <= end; at += AT_ONCE) {
        load(row->parts[0] + at * bits / 8, zero, values);
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < VECTORS; i++)
            parts[r][i % 2] += values[i] * load_floats(x[r] + at + i * LANES);
    }
    if (at < end) {
        last_values(load, bits, row->parts[0] + at * bits / 8, zero, values, end - at);
        UNROLL for (int r = 0; r < rows; r++) {
            float last[AT_ONCE] = {0};
            memcpy(last, x[r] + at, (end - at) * sizeof *last);
            UNROLL for (int i = 0; i < VECTORS; i++) parts[r][i % 2] += values[i] * load_floats(last + i * LANES);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) sums[r] += (parts[r][0] + parts[r][1]) * scale_of(row, group);
}

INLINE void multiply_output(Values load, const int bits, const Work *work, int out, int first, const int rows) {
    const Row row = row_at(work, out);
    const float *x[DOT_MOST_ROWS];
    Floats sums[DOT_MOST_ROWS];
    UNROLL for (int r = 0; r < rows; r++) {
        x[r] = (const float *)(work->x + (first + r) * work->x_stride);
        sums[r] = (Floats){0};
    }
    for (int group = 0; group * row.group < row.ins; group++) add_group(load, bits, &row, group, x, rows, sums);
    UNROLL for (int r = 0; r < rows; r++)
        work->y[(first + r) * work->y_stride + out] = sum(sums[r]) + (work->bias ? work->bias[out] : 0);
}

INLINE void multiply_codes(Values load, const int bits, const Work *work) {
    if (work->rows > FEW_ROWS) {
        multiply_values(work);
        return;
    }
    for (int out = 0; out < work->outs; out++) {
        int row = 0;
        for (; row + DOT_MOST_ROWS <= work->rows; row += DOT_MOST_ROWS)
            multiply_output(load, bits, work, out, row, DOT_MOST_ROWS);
        if (work->rows & 2) multiply_output(load, bits, work, out, row, 2);
        row += work->rows & 2;
        if (work->rows & 1) multiply_output(load, bits, work, out, row, 1);
    }
}

/* Turn a few codes, all of one group, into floats. */
INLINE void scale_codes(Values load, const int bits, const Row *row, int at, int count, float *to) {
    const int group = at / row->group, zero = zero_of(row, group, bits);
    const float scale = scale_of(row, group);
    const uint8_t *from = row->parts[0] + at * bits / 8;
    Floats values[VECTORS];
    for (; count >= AT_ONCE; count -= AT_ONCE, from += AT_ONCE * bits / 8, to += AT_ONCE) {
        load(from, zero, values);
        UNROLL for (int i = 0; i < VECTORS; i++) STORE(Floats, values[i] * scale, to + i * LANES);
    }
    if (!count) return;
    last_values(load, bits, from, zero, values, count);
    for (int i = 0; i < count; i++) to[i] = values[i / LANES][i % LANES] * scale;
}

INLINE void dequantize_codes(Values load, const int bits, const Row *row, int at, int count, float *to) {
    for (const int end = at + count; at < end;) {
        const int left = row->group - at % row->group, next = left < end - at ? left : end - at;
        scale_codes(load, bits, row, at, next, to);
        at += next;
        to += next;
    }
}

#define SCALED_CODES(NAME, BITS)                                                                     \
    static void dequantize_##NAME(const Row *row, int at, int count, float *to) {                    \
        dequantize_codes(values_##NAME, BITS, row, at, count, to);                                   \
    }                                                                                                \
    static void multiply_##NAME(const Work *work) { multiply_codes(values_##NAME, BITS, work); }
SCALED_CODES(int4, 4)
SCALED_CODES(int8, 8)
SCALED_CODES(fp8, 8)
SCALED_CODES(nf4, 4)
SCALED_CODES(fp4, 4)
