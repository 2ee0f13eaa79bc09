/* What is in 256 weights of each type that has blocks of 32, or of 64: see `Chunk`. Layouts are in
 * `neuron.models.formats.small_blocks` and `microscaled_blocks`. */

/* The float16 that stands `at` bytes behind the start of each of eight blocks. */
#if LANES == 16
/* Each load has two, or even four. None reads behind the blocks. */
INLINE Floats8 strided_halves(const uint8_t *p, const int at, const int stride) {
    const int a = at / 2, b = (at + stride) / 2, c = at / 2 + stride, d = b + stride;
    if (d < 32) {
        const Halves places = {a, b, c, d, 32 + a, 32 + b, 32 + c, 32 + d};
        const __m512i where = _mm512_castsi256_si512((__m256i)places);
        const __m512i all = _mm512_permutex2var_epi16(_mm512_loadu_si512(p), where, _mm512_loadu_si512(p + 4 * stride));
        return (Floats8)_mm256_cvtph_ps(_mm512_castsi512_si128(all));
    }
    const int last = 6 * stride < 8 * stride - 64 ? 6 * stride : 8 * stride - 64, more = (6 * stride - last) / 2;
    const Halves places[] = {{a, b, 32 + a, 32 + b}, {a, b, 32 + a + more, 32 + b + more}};
    __m128i found[2];
    UNROLL for (int i = 0; i < 2; i++) {
        const __m512i first = _mm512_loadu_si512(p + 4 * i * stride);
        const __m512i second = _mm512_loadu_si512(p + (i ? last : 2 * stride));
        const __m512i where = _mm512_castsi256_si512((__m256i)places[i]);
        found[i] = _mm512_castsi512_si128(_mm512_permutex2var_epi16(first, where, second));
    }
    return (Floats8)_mm256_cvtph_ps(_mm_unpacklo_epi64(found[0], found[1]));
}
#else
INLINE Floats8 strided_halves(const uint8_t *p, const int at, const int stride) {
    Words8 halves = {0};
    UNROLL for (int i = 0; i < 8; i++) halves[i] = load_16(p + at + i * stride);
    return floats_of_halves(halves);
}
#endif

/* The 16 bytes of nibbles `at` bytes behind the start of each of eight blocks. */
#if LANES == 16
/* Halved. Three blocks are in one load: at even places pairs of bytes are put where they shall be. */
INLINE void strided_nibbles(const uint8_t *p, const int at, const int stride, Chunk *c) {
    UNROLL for (int i = 0; i < 2; i++) {
        const uint8_t *from = p + 4 * i * stride + at;
        __m512i packed;
        if (stride % 2) {
            packed = _mm512_broadcast_i32x4(LOAD(__m128i, from));
            packed = _mm512_mask_broadcast_i32x4(packed, 0x00f0, LOAD(__m128i, from + stride));
            packed = _mm512_mask_broadcast_i32x4(packed, 0x0f00, LOAD(__m128i, from + 2 * stride));
        } else {
            const int a = at / 2, b = a + stride / 2, d = a + stride;
            const Shorts32 places = {a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6, a + 7,
                                     b, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6, b + 7,
                                     d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7};
            packed = _mm512_permutexvar_epi16((__m512i)places, _mm512_loadu_si512(from - at));
        }
        packed = _mm512_mask_broadcast_i32x4(packed, 0xf000, LOAD(__m128i, from + 3 * stride));
        c->codes[2 * i] = (Pair)packed & 15;
        c->codes[2 * i + 1] = upper_halves((Pair)packed);
    }
}
#else
INLINE void strided_nibbles(const uint8_t *p, const int at, const int stride, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        const uint8_t *from = p + 2 * i * stride + at;
        c->codes[i] = load_nibble_pair(from, from + stride);
    }
}
#endif

/* Eight blocks of a float16 and 16 bytes of nibbles. */
#if LANES == 16
/* Three loads have all of them: most of what a product by one row waits for is loads. */
INLINE void unpack_eighteens(const uint8_t *p, Chunk *c) {
    __m512i first = _mm512_loadu_si512(p), second = _mm512_loadu_si512(p + 64), third = _mm512_loadu_si512(p + 80);
    __asm__("" : "+v"(second)); /* or it would be loaded for each use */
#define EIGHT(AT) AT, AT + 1, AT + 2, AT + 3, AT + 4, AT + 5, AT + 6, AT + 7
    const Shorts32 low = {EIGHT(1), EIGHT(10), EIGHT(19), EIGHT(28)};  /* of first and second */
    const Shorts32 high = {EIGHT(5), EIGHT(14), EIGHT(23), EIGHT(56)}; /* of second and third */
#undef EIGHT
    const Pair packed[] = {(Pair)_mm512_permutex2var_epi16(first, (__m512i)low, second),
                           (Pair)_mm512_permutex2var_epi16(second, (__m512i)high, third)};
    UNROLL for (int i = 0; i < 2; i++) {
        c->codes[2 * i] = packed[i] & 15;
        c->codes[2 * i + 1] = upper_halves(packed[i]);
    }
    const Halves places = {0, 9, 18, 27, 36, 45, 54, 63};
    const __m512i halves = _mm512_permutex2var_epi16(first, _mm512_castsi256_si512((__m256i)places), second);
    c->scales[0] = (Floats8)_mm256_cvtph_ps(_mm512_castsi512_si128(halves));
}
#else
INLINE void unpack_eighteens(const uint8_t *p, Chunk *c) {
    strided_nibbles(p, 2, 18, c);
    c->scales[0] = strided_halves(p, 0, 18);
}
#endif

INLINE void unpack_q4_0(const uint8_t *p, Chunk *c) {
    unpack_eighteens(p, c);
    c->offsets[0] = c->scales[0] * -8.0f;
}

INLINE void unpack_q4_1(const uint8_t *p, Chunk *c) {
    strided_nibbles(p, 4, 20, c);
    c->scales[0] = strided_halves(p, 0, 20);
    c->offsets[0] = strided_halves(p, 2, 20);
}

INLINE void unpack_q5_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        const uint8_t *from = p + 44 * i;
        c->codes[i] = joined(load_nibble_pair(from + 6, from + 28), spread_pair(load_32(from + 2), load_32(from + 24)));
    }
    c->scales[0] = strided_halves(p, 0, 22);
    c->offsets[0] = c->scales[0] * -16.0f;
}

INLINE void unpack_q5_1(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        const uint8_t *from = p + 48 * i;
        c->codes[i] = joined(load_nibble_pair(from + 8, from + 32), spread_pair(load_32(from + 4), load_32(from + 28)));
    }
    c->scales[0] = strided_halves(p, 0, 24);
    c->offsets[0] = strided_halves(p, 2, 24);
}

INLINE void unpack_q8_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++)
        c->codes[i] = flipped(load_pair(p + 68 * i + 2, p + 68 * i + 36));
    c->scales[0] = strided_halves(p, 0, 34);
    c->offsets[0] = c->scales[0] * -128.0f;
}

/* 128 more than the value. */
static const uint8_t iq4_codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

INLINE void unpack_iq4_nl(const uint8_t *p, Chunk *c) {
    unpack_eighteens(p, c);
    UNROLL for (int i = 0; i < 4; i++) c->codes[i] = looked_up(iq4_codes, c->codes[i]);
    c->offsets[0] = c->scales[0] * -128.0f;
}

/* Twice the value, and 12 more. */
static const uint8_t e2m1_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

INLINE void unpack_mxfp4(const uint8_t *p, Chunk *c) {
    strided_nibbles(p, 1, 17, c);
    UNROLL for (int i = 0; i < 4; i++) c->codes[i] = looked_up(e2m1_codes, c->codes[i]);
    const Ints8 e = {p[0], p[17], p[34], p[51], p[68], p[85], p[102], p[119]};
    c->scales[0] = (Floats8)(((e < 2) & ((e + 1) << 21)) | ((e >= 2) & ((e - 1) << 23))); /* 2 ** (e - 128) */
    c->offsets[0] = c->scales[0] * -12.0f;
}

/* Of two blocks: half of each scale, 0 for NaN's code. A float16 has the same bits, but 2 ** 8 less. */
INLINE Floats8 nvfp4_scales(const uint8_t *p) {
    const uint64_t bytes = load_32(p) | (uint64_t)load_32(p + 36) << 32;
    Words8 e4m3 = __builtin_convertvector((Bytes8)bytes, Words8);
    e4m3 &= (Words8)(e4m3 != 0x7f) & 0x7f;
    return floats_of_halves(e4m3 << 7) * 128.0f;
}

INLINE void unpack_nvfp4(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) c->codes[i] = looked_up(e2m1_codes, load_nibble_eights(p + 36 * i + 4));
    UNROLL for (int i = 0; i < 2; i++) {
        c->scales[i] = nvfp4_scales(p + 72 * i);
        c->offsets[i] = c->scales[i] * -12.0f;
    }
}
