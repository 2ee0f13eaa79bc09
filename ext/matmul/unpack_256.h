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
    UNROLL for (int i = 0; i < 4; i++) c->codes[i] = with_bits_of(load_shifted(p + 16 + 32 * i, 0, 4), 15);
    unpack_k_scales(p, c);
}

INLINE void unpack_q5_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        const Pair fifths = load_shifted(p + 16, 2 * i - 4, 2 * i - 3);
        c->codes[i] = joined(with_bits_of(load_shifted(p + 48 + 32 * i, 0, 4), 15), with_bits_of(fifths, 16));
    }
    unpack_k_scales(p, c);
}

INLINE void unpack_q6_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 2; i++) {
        const Pair low = load_pair(p + 64 * i, p + 64 * i + 32);
        const Pair first = load_shifted(p + 128 + 32 * i, -4, -2), second = load_shifted(p + 128 + 32 * i, 0, 2);
        c->codes[2 * i] = joined(with_bits_of(low, 15), with_bits_of(first, 0x30));
        c->codes[2 * i + 1] = joined(upper_halves(low), with_bits_of(second, 0x30));
        c->scales[i] = floats_of_signed_bytes(load_64(p + 192 + 8 * i)) * half_to_float(load_16(p + 208));
        c->offsets[i] = c->scales[i] * -32.0f;
    }
}

INLINE void unpack_q3_k(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++) {
        const Pair low = load_shifted(p + 32 + 32 * (i / 2), i % 2 * 4, i % 2 * 4 + 2);
        const Pair thirds = load_shifted(p, 2 * i - 2, 2 * i - 1);
        c->codes[i] = joined(with_bits_of(low, 3), with_bits_of(thirds, 4));
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
    UNROLL for (int i = 0; i < 4; i++)
        c->codes[i] = with_bits_of(load_shifted(p + 16 + 32 * (i / 2), i % 2 * 4, i % 2 * 4 + 2), 3);
    const float d = half_to_float(load_16(p + 80)), m = -half_to_float(load_16(p + 82));
    UNROLL for (int i = 0; i < 2; i++) {
        const uint64_t both = load_64(p + 8 * i);
        c->scales[i] = floats_of_bytes(both & NIBBLES) * d;
        c->offsets[i] = floats_of_bytes(both >> 4 & NIBBLES) * m;
    }
}

INLINE void unpack_tq2_0(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++)
        c->codes[i] = with_bits_of(load_shifted(p + 32 * (i / 2), i % 2 * 4, i % 2 * 4 + 2), 3);
    c->scales[0] = splat(half_to_float(load_16(p + 64)));
    c->offsets[0] = -c->scales[0];
}

INLINE void unpack_iq4_xs(const uint8_t *p, Chunk *c) {
    UNROLL for (int i = 0; i < 4; i++)
        c->codes[i] = looked_up(iq4_codes, load_nibble_pair(p + 8 + 32 * i, p + 24 + 32 * i));
    const uint64_t low = load_32(p + 4), high = load_16(p + 2);
    uint64_t scales = 0;
    UNROLL for (int i = 0; i < 8; i++) scales |= ((low >> 4 * i & 15) | (high >> 2 * i & 3) << 4) << 8 * i;
    c->scales[0] = (floats_of_bytes(scales) - 32.0f) * half_to_float(load_16(p));
    c->offsets[0] = c->scales[0] * -128.0f;
}
