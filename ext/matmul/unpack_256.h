/* What is in 256 weights of each type that has super-blocks: see `Chunk`. Layouts are in
 * `neuron.models.formats.super_blocks`. */

#define SIX_BITS 0x3030303030303030u
#define NIBBLES 0x0f0f0f0f0f0f0f0fu

INLINE void unpack_k_scales(const uint8_t *p, Chunk *c) {
    const uint64_t first = load_64(p + 4), last = load_32(p + 12), high = first >> 2 & SIX_BITS;
    const uint64_t scales = (first & 0x3f3f3f3fu) | ((last & 0x0f0f0f0fu) | (high & 0xffffffffu)) << 32;
    const uint64_t minima = (first >> 32 & 0x3f3f3f3fu) | (((last >> 4 & 0x0f0f0f0fu) << 32) | (high >> 32 << 32));
    c->scales[0] = floats_of_bytes(scales) * half_to_float(load_16(p));
    c->offsets[0] = floats_of_bytes(minima) * -half_to_float(load_16(p + 2));
}

INLINE void unpack_q4_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        Bytes packed = LOAD(Bytes, p + 16 + 32 * i);
        c->codes[2 * i] = low_nibbles(packed);
        c->codes[2 * i + 1] = high_nibbles(packed);
    }
    unpack_k_scales(p, c);
}

INLINE void unpack_q5_k(const uint8_t *p, Chunk *c) {
    const Bytes fifths = LOAD(Bytes, p + 16);
    UNROLL for (int i = 0; i < 4; i++) {
        Bytes packed = LOAD(Bytes, p + 48 + 32 * i);
        Bytes even = 2 * i < 4 ? shift_left(fifths, 4 - 2 * i) : shift_right(fifths, 2 * i - 4);
        Bytes odd = 2 * i < 3 ? shift_left(fifths, 3 - 2 * i) : shift_right(fifths, 2 * i - 3);
        c->codes[2 * i] = low_nibbles(packed) | (even & 16);
        c->codes[2 * i + 1] = high_nibbles(packed) | (odd & 16);
    }
    unpack_k_scales(p, c);
}

INLINE void unpack_q6_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 2; i++) {
        Bytes first = LOAD(Bytes, p + 64 * i), second = LOAD(Bytes, p + 64 * i + 32);
        Bytes high = LOAD(Bytes, p + 128 + 32 * i);
        c->codes[4 * i] = low_nibbles(first) | (shift_left(high, 4) & 0x30);
        c->codes[4 * i + 1] = low_nibbles(second) | (shift_left(high, 2) & 0x30);
        c->codes[4 * i + 2] = high_nibbles(first) | (high & 0x30);
        c->codes[4 * i + 3] = high_nibbles(second) | (shift_right(high, 2) & 0x30);
        c->scales[i] = floats_of_signed_bytes(load_64(p + 192 + 8 * i)) * half_to_float(load_16(p + 208));
        c->offsets[i] = c->scales[i] * -32.0f;
    }
}

INLINE void unpack_q3_k(const uint8_t *p, Chunk *c) {
    const Bytes thirds = LOAD(Bytes, p);
    UNROLL for (int i = 0; i < 8; i++) {
        Bytes third = i < 2 ? shift_left(thirds, 2 - i) : shift_right(thirds, i - 2);
        c->codes[i] = (shift_right(LOAD(Bytes, p + 32 + 32 * (i / 4)), 2 * (i % 4)) & 3) | (third & 4);
    }
    const uint64_t low = load_64(p + 96), high = load_32(p + 104), two = 0x03030303u;
    const uint64_t first = (high & two) | (high >> 2 & two) << 32;
    const uint64_t second = (high >> 4 & two) | (high >> 6 & two) << 32;
    const float d = half_to_float(load_16(p + 108));
    c->scales[0] = (floats_of_bytes((low & NIBBLES) | first << 4) - 32.0f) * d;
    c->scales[1] = (floats_of_bytes((low >> 4 & NIBBLES) | second << 4) - 32.0f) * d;
    UNROLL for (int i = 0; i < 2; i++) c->offsets[i] = c->scales[i] * -4.0f;
}

INLINE void unpack_q2_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++)
        c->codes[i] = shift_right(LOAD(Bytes, p + 16 + 32 * (i / 4)), 2 * (i % 4)) & 3;
    const float d = half_to_float(load_16(p + 80)), m = -half_to_float(load_16(p + 82));
    UNROLL for (int i = 0; i < 2; i++) {
        const uint64_t both = load_64(p + 8 * i);
        c->scales[i] = floats_of_bytes(both & NIBBLES) * d;
        c->offsets[i] = floats_of_bytes(both >> 4 & NIBBLES) * m;
    }
}

INLINE void unpack_tq2_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = shift_right(LOAD(Bytes, p + 32 * (i / 4)), 2 * (i % 4)) & 3;
    c->scales[0] = splat(half_to_float(load_16(p + 64)));
    c->offsets[0] = -c->scales[0];
}

INLINE void unpack_iq4_xs(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 8; i++) c->codes[i] = lookup(iq4_codes, load_nibbles(p + 8 + 16 * i));
    const uint64_t low = load_32(p + 4), high = load_16(p + 2);
    uint64_t scales = 0;
    UNROLL for (int i = 0; i < 8; i++) scales |= ((low >> 4 * i & 15) | (high >> 2 * i & 3) << 4) << 8 * i;
    c->scales[0] = (floats_of_bytes(scales) - 32.0f) * half_to_float(load_16(p));
    c->offsets[0] = c->scales[0] * -128.0f;
}
