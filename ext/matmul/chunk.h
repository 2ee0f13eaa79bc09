/* Products of blocks by inputs that are rounded to codes. A weight is scale * code + offset, so a product is the
 * products of codes, which are whole numbers, times both scales, and the offset times the sum of the inputs. */

/* 256 weights. */
typedef struct Chunk {
    Pair codes[4]; /* in order; or halved, as inputs are */
    Floats8 scales[2], offsets[2]; /* of 32 weights each, and then there is only the first; or of 16 */
} Chunk;

/* The number that weight `i` stands for, exactly: of a type without offsets, whose code of 0 is `centre`, or of others. */
INLINE float weight_of(const Chunk *of, int i, const int run, const int centre, const int is_halved) {
    const int place = is_halved ? i / 128 * 128 + i / 16 % 2 * 64 + i / 32 % 4 * 16 + i % 16 : i;
    const int code = ((const uint8_t *)of->codes)[place];
    const float scale = of->scales[i / run / 8][i / run % 8];
    return centre ? scale * (float)(code - centre) : scale * (float)code + of->offsets[i / run / 8][i / run % 8];
}

/* What is added up for an output: lanes are inputs. */
#if LANES == 16 || defined(HAS_NEON)
typedef Floats DotFloats;
#else
typedef Floats8 DotFloats;
#endif

typedef struct Sums {
    DotFloats products[2];
    Floats8 offsets;
} Sums;

INLINE void add_offsets(const Chunk *of, CodedInput x, int chunk, Sums *sums, const int run) {
    if (run == 32) sums->offsets += of->offsets[0] * LOAD(Floats8, x.chunks[chunk].sums[x.lane]);
    else
        UNROLL for (int i = 0; i < 2; i++)
            sums->offsets += of->offsets[i] * LOAD(Floats8, x.chunks[chunk].half_sums[x.lane] + 8 * i);
}

#if LANES == 16
INLINE float total_of(const Sums *of) {
    return sum(of->products[0] + of->products[1]) + total(of->offsets);
}

/* Times the inputs' scales, by weights' runs. */
INLINE Floats scales_of(const Chunk *of, Floats8 inputs, const int run) {
    if (run == 32) return (Floats)_mm512_castps256_ps512((__m256)(of->scales[0] * inputs));
    const Floats8 scales[] = {of->scales[0] * PICK(inputs, 0, 0, 1, 1, 2, 2, 3, 3),
                              of->scales[1] * PICK(inputs, 4, 4, 5, 5, 6, 6, 7, 7)};
    return (Floats)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)scales[0]), (__m256)scales[1], 1);
}

/* The scales of 64 weights, for each four. */
INLINE Floats scales_at(Floats scales, int at, const int run) {
    const int a = at * 64 / run, b = a + 32 / run, half = 16 / run;
    const Integers places = {a, a, a, a, a + half, a + half, a + half, a + half,
                             b, b, b, b, b + half, b + half, b + half, b + half};
    return (Floats)_mm512_permutexvar_ps((__m512i)places, (__m512)scales);
}

/* The scales of the blocks that are halved together, for each four. */
INLINE Floats scales_of_four(Floats scales, int first) {
    const int a = first, b = a + 1, c = a + 2, d = a + 3;
    const Integers places = {a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d};
    return (Floats)_mm512_permutexvar_ps((__m512i)places, (__m512)scales);
}

INLINE Integers dot_pair(Integers sums, Pair codes, __m512i others, const int is_signed) {
    __m512i factors = (__m512i)codes;
#ifdef HAS_VNNI
    (void)is_signed;
    return (Integers)_mm512_dpbusd_epi32((__m512i)sums, factors, others);
#else
    if (is_signed) {
        others = _mm512_mask_sub_epi8(others, _mm512_movepi8_mask(factors), _mm512_setzero_si512(), others);
        factors = _mm512_abs_epi8(factors);
    }
    return sums + (Integers)_mm512_madd_epi16(_mm512_maddubs_epi16(factors, others), _mm512_set1_epi16(1));
#endif
}

INLINE void add_codes(const Chunk *of, CodedInput x, int chunk, Sums *sums, const int run, const int is_signed,
                      const int is_halved) {
    const Floats scales = scales_of(of, LOAD(Floats8, x.chunks[chunk].scales[x.lane]), run);
    if (is_halved) {
        UNROLL for (int i = 0; i < 2; i++) {
            Integers dots = {0};
            UNROLL for (int half = 0; half < 2; half++) {
                const Pair codes = is_signed ? flipped(of->codes[2 * i + half]) : of->codes[2 * i + half];
                const int8_t *others = x.chunks[chunk].halved[x.lane] + 128 * i + 64 * half;
                dots = dot_pair(dots, codes, _mm512_loadu_si512(others), is_signed);
            }
            sums->products[i] += __builtin_convertvector(dots, Floats) * scales_of_four(scales, 4 * i);
        }
        return;
    }
    UNROLL for (int i = 0; i < 4; i++) {
        const Pair codes = is_signed ? flipped(of->codes[i]) : of->codes[i];
        const __m512i others = _mm512_loadu_si512(x.chunks[chunk].codes[x.lane] + 64 * i);
        const Integers dots = dot_pair((Integers){0}, codes, others, is_signed);
        sums->products[i % 2] += __builtin_convertvector(dots, Floats) * scales_at(scales, i, run);
    }
}
#elif defined(HAS_NEON)
INLINE float total_of(const Sums *of) {
    return sum(of->products[0] + of->products[1]) + total(of->offsets);
}

INLINE void add_codes(const Chunk *of, CodedInput x, int chunk, Sums *sums, const int run, const int is_signed,
                      const int is_halved) {
    (void)is_halved; /* nothing is */
    float scales[16];
    const Floats8 inputs = LOAD(Floats8, x.chunks[chunk].scales[x.lane]);
    if (run == 32) STORE(Floats8, of->scales[0] * inputs, scales);
    else
        for (int i = 0; i < 16; i++) scales[i] = of->scales[i / 8][i % 8] * inputs[i / 2];
    UNROLL for (int i = 0; i < 4; i++) {
        const Pair codes = is_signed ? flipped(of->codes[i]) : of->codes[i];
        int32x4_t dots[4];
        UNROLL for (int j = 0; j < 4; j++) {
            const int8x16_t others = vld1q_s8(x.chunks[chunk].codes[x.lane] + 64 * i + 16 * j);
            const int is_next = run == 32 && j % 2; /* of the same run */
            dots[j] = add_dots(is_next ? dots[j - 1] : vdupq_n_s32(0), (int8x16_t)codes.at[j], others);
            if (run == 32 && !is_next) continue;
            const float scale = scales[(4 * i + j) * 16 / run];
            sums->products[(run == 32 ? j / 2 : j) % 2] += (Floats)vcvtq_f32_s32(dots[j]) * scale;
        }
    }
}
#else
INLINE float total_of(const Sums *of) { return total(of->products[0] + of->products[1] + of->offsets); }

INLINE void add_codes(const Chunk *of, CodedInput x, int chunk, Sums *sums, const int run, const int is_signed,
                      const int is_halved) {
    (void)is_halved;
    const Floats8 inputs = LOAD(Floats8, x.chunks[chunk].scales[x.lane]);
    Floats8 scales[2];
    if (run == 32) scales[0] = of->scales[0] * inputs;
    else {
        scales[0] = of->scales[0] * PICK(inputs, 0, 0, 1, 1, 2, 2, 3, 3);
        scales[1] = of->scales[1] * PICK(inputs, 4, 4, 5, 5, 6, 6, 7, 7);
    }
    UNROLL for (int i = 0; i < 8; i++) {
        const Pair both = is_signed ? flipped(of->codes[i / 2]) : of->codes[i / 2];
        const SignedBytes others = LOAD(SignedBytes, x.chunks[chunk].codes[x.lane] + 32 * i);
        const Ints8 dots = dot_bytes((Ints8){0}, i % 2 ? both.second : both.first, others, is_signed);
        const int a = run == 32 ? i : 2 * i % 8, b = run == 32 ? i : a + 1;
        const Floats8 scale = PICK(scales[run == 32 ? 0 : i / 4], a, a, a, a, b, b, b, b);
        sums->products[i % 2] += __builtin_convertvector(dots, Floats8) * scale;
    }
}
#endif

/* Add the products by a row's inputs. `run` is how many weights share a scale. Codes that are signed are 128 more
 * than they shall be, and their offsets are for that alone. */
INLINE void add_products(const Chunk *of, CodedInput x, int chunk, Sums *sums, const int run, const int is_signed,
                         const int is_halved) {
    if (!is_signed) add_offsets(of, x, chunk, sums, run);
    add_codes(of, x, chunk, sums, run, is_signed, is_halved);
}
