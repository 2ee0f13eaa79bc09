/* What is in 256 weights of each type that has blocks of 32, or of 64: see `Chunk`. Layouts are in
 * `neuron.models.formats.small_blocks` and `microscaled_blocks`. */

INLINE Floats8 strided_halves(const uint8_t *p, int stride) {
    return floats_of_halves((Words8){
        load_16(p), load_16(p + stride), load_16(p + 2 * stride), load_16(p + 3 * stride),
        load_16(p + 4 * stride), load_16(p + 5 * stride), load_16(p + 6 * stride), load_16(p + 7 * stride)});
}

INLINE void unpack_q4_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = load_nibbles(p + 18 * i + 2);
    c->scales[0] = strided_halves(p, 18);
    c->offsets[0] = c->scales[0] * -8.0f;
}

INLINE void unpack_q4_1(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = load_nibbles(p + 20 * i + 4);
    c->scales[0] = strided_halves(p, 20);
    c->offsets[0] = strided_halves(p + 2, 20);
}

INLINE void unpack_q5_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++)
        c->codes[i] = load_nibbles(p + 22 * i + 6) | spread_bits(load_32(p + 22 * i + 2));
    c->scales[0] = strided_halves(p, 22);
    c->offsets[0] = c->scales[0] * -16.0f;
}

INLINE void unpack_q5_1(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++)
        c->codes[i] = load_nibbles(p + 24 * i + 8) | spread_bits(load_32(p + 24 * i + 4));
    c->scales[0] = strided_halves(p, 24);
    c->offsets[0] = strided_halves(p + 2, 24);
}

INLINE void unpack_q8_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = LOAD(Bytes, p + 34 * i + 2) ^ 128;
    c->scales[0] = strided_halves(p, 34);
    c->offsets[0] = c->scales[0] * -128.0f;
}

/* 128 more than the value. */
static const uint8_t iq4_codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

INLINE void unpack_iq4_nl(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = lookup(iq4_codes, load_nibbles(p + 18 * i + 2));
    c->scales[0] = strided_halves(p, 18);
    c->offsets[0] = c->scales[0] * -128.0f;
}

/* Twice the value, and 12 more. */
static const uint8_t e2m1_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

INLINE void unpack_mxfp4(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = lookup(e2m1_codes, load_nibbles(p + 17 * i + 1));
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
    UNROLL for (int i = 0; i < 4; i++) {
        Bytes packed = LOAD(Bytes, p + 36 * i + 4);
        Quads low = (Quads)low_nibbles(packed), high = (Quads)high_nibbles(packed);
        c->codes[2 * i] = lookup(e2m1_codes, (Bytes)SHUFFLE(Quads, low, high, 0, 4, 1, 5));
        c->codes[2 * i + 1] = lookup(e2m1_codes, (Bytes)SHUFFLE(Quads, low, high, 2, 6, 3, 7));
    }
    UNROLL for (int i = 0; i < 2; i++) {
        c->scales[i] = nvfp4_scales(p + 72 * i);
        c->offsets[i] = c->scales[i] * -12.0f;
    }
}
