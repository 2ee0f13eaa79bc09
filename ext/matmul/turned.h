/* With vectors of 64 bytes, 16 outputs' codes are turned while they are packed, and unpacked then: `turn_NAME` fills a
 * tile with the codes of 256 weights each. Layouts are those of `unpack_32.h` and `unpack_256.h`. */
#if LANES == 16

INLINE __m512i beside(__m512i of, const uint8_t *from, const int lane) {
    return _mm512_mask_broadcast_i32x4(of, (__mmask16)(15 << 4 * lane), LOAD(__m128i, from));
}

/* The 16 bytes at a place: of each four a vector. */
INLINE void columns(const uint8_t *const *from, size_t at, Pair *to) {
    __m512i v[4], pairs[4];
    UNROLL for (int o = 0; o < 4; o++) {
        v[o] = _mm512_castsi128_si512(LOAD(__m128i, from[o] + at));
        UNROLL for (int lane = 1; lane < 4; lane++) v[o] = beside(v[o], from[4 * lane + o] + at, lane);
    }
    UNROLL for (int i = 0; i < 2; i++) {
        pairs[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++) {
        to[2 * i] = (Pair)_mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        to[2 * i + 1] = (Pair)_mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    }
}

/* Each code 128 more, or less. */
INLINE void flip_codes(Tile *tile) {
    for (int four = 0; four < CHUNK / 4; four++) STORE(Pair, flipped(LOAD(Pair, tile->codes[four])), tile->codes[four]);
}

INLINE void put(Tile *tile, int four, Pair codes) { STORE(Pair, codes, tile->codes[four]); }

/* Bytes shifted right, or left, if `bits` is negative. What crosses from byte to byte is for the caller to mask. */
INLINE Pair shifted(Pair of, const int bits) {
    return (Pair)(bits < 0 ? _mm512_slli_epi16((__m512i)of, -bits) : _mm512_srli_epi16((__m512i)of, bits));
}

/* Blocks of 32 whose nibbles stand `at` bytes behind their starts: all lower halves, then all upper ones. `table` says
 * what they mean, or is NULL. */
INLINE void turn_nibbles(const uint8_t *const *from, const int at, const int stride, const uint8_t *table, Tile *tile) {
    UNROLL for (int i = 0; i < 8; i++) {
        Pair packed[4];
        columns(from, i * stride + at, packed);
        UNROLL for (int k = 0; k < 4; k++) UNROLL for (int half = 0; half < 2; half++) {
            const Pair codes = half ? upper_halves(packed[k]) : packed[k] & 15;
            put(tile, 8 * i + 4 * half + k, table ? looked_up(table, codes) : codes);
        }
    }
}

INLINE void turn_q4_0(const uint8_t *const *from, Tile *tile) { turn_nibbles(from, 2, 18, NULL, tile); }
INLINE void turn_q4_1(const uint8_t *const *from, Tile *tile) { turn_nibbles(from, 4, 20, NULL, tile); }
INLINE void turn_iq4_nl(const uint8_t *const *from, Tile *tile) { turn_nibbles(from, 2, 18, iq4_codes, tile); }
INLINE void turn_mxfp4(const uint8_t *const *from, Tile *tile) { turn_nibbles(from, 1, 17, e2m1_codes, tile); }
INLINE void turn_iq4_xs(const uint8_t *const *from, Tile *tile) { turn_nibbles(from, 8, 16, iq4_codes, tile); }

/* 16 in each byte whose bit of a block is set: that of its place. */
INLINE Pair fifths_of(Pair bits, const int four) {
    const int byte = four / 2;
    const __m512i places = _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                           _mm512_set1_epi8((char)byte));
    const __mmask64 set = _mm512_test_epi8_mask(_mm512_shuffle_epi8((__m512i)bits, places),
                                                _mm512_set1_epi32(four % 2 ? (int)0x80402010 : 0x08040201));
    return (Pair)_mm512_maskz_set1_epi8(set, 16);
}

/* The same nibbles, and fifth bits `bits` behind the start. */
INLINE void turn_fives(const uint8_t *const *from, const int bits, const int at, const int stride, Tile *tile) {
    UNROLL for (int i = 0; i < 8; i++) {
        Pair packed[4];
        uint32_t fifths[TILE_OUTS];
        UNROLL for (int o = 0; o < TILE_OUTS; o++) fifths[o] = load_32(from[o] + i * stride + bits);
        const Pair of_fifths = LOAD(Pair, fifths);
        columns(from, i * stride + at, packed);
        UNROLL for (int k = 0; k < 4; k++) UNROLL for (int half = 0; half < 2; half++) {
            const Pair codes = half ? upper_halves(packed[k]) : packed[k] & 15;
            put(tile, 8 * i + 4 * half + k, codes | fifths_of(of_fifths, 4 * half + k));
        }
    }
}

INLINE void turn_q5_0(const uint8_t *const *from, Tile *tile) { turn_fives(from, 2, 6, 22, tile); }
INLINE void turn_q5_1(const uint8_t *const *from, Tile *tile) { turn_fives(from, 4, 8, 24, tile); }

INLINE void turn_q8_0(const uint8_t *const *from, Tile *tile) {
    UNROLL for (int i = 0; i < 16; i++) {
        Pair codes[4];
        columns(from, i / 2 * 34 + 2 + i % 2 * 16, codes);
        UNROLL for (int k = 0; k < 4; k++) put(tile, 4 * i + k, flipped(codes[k]));
    }
}

/* Runs of 16: eight bytes' lower halves, then their upper ones. */
INLINE void turn_nvfp4(const uint8_t *const *from, Tile *tile) {
    UNROLL for (int i = 0; i < 8; i++) {
        Pair packed[4];
        columns(from, i / 2 * 36 + 4 + i % 2 * 16, packed);
        UNROLL for (int k = 0; k < 4; k++) UNROLL for (int half = 0; half < 2; half++) {
            const Pair codes = half ? upper_halves(packed[k]) : packed[k] & 15;
            put(tile, 8 * i + k / 2 * 4 + 2 * half + k % 2, looked_up(e2m1_codes, codes));
        }
    }
}

/* Every 32 bytes from `at` on are some blocks' codes, of so many bits each; the first block's are the lowest. */
INLINE void turn_bits(const uint8_t *const *from, const int at, const int bits, Tile *tile) {
    const int blocks = 8 / bits;
    const uint8_t lowest = (uint8_t)((1 << bits) - 1);
    UNROLL for (int i = 0; i < 16 / blocks; i++) {
        Pair packed[4];
        columns(from, at + 16 * i, packed);
        UNROLL for (int b = 0; b < blocks; b++) UNROLL for (int k = 0; k < 4; k++)
            put(tile, (i / 2 * blocks + b) * 8 + i % 2 * 4 + k, shifted(packed[k], b * bits) & lowest);
    }
}

/* To each block's codes comes bit b of 32 bytes, of the b-th, as its bit `place`. */
INLINE void turn_high_bits(const uint8_t *const *from, const int at, const int place, Tile *tile) {
    UNROLL for (int i = 0; i < 2; i++) {
        Pair packed[4];
        columns(from, at + 16 * i, packed);
        UNROLL for (int b = 0; b < 8; b++) UNROLL for (int k = 0; k < 4; k++) {
            uint8_t *codes = tile->codes[8 * b + 4 * i + k][0];
            STORE(Pair, LOAD(Pair, codes) | (shifted(packed[k], b - place) & (uint8_t)(1 << place)), codes);
        }
    }
}

INLINE void turn_q4_k(const uint8_t *const *from, Tile *tile) { turn_bits(from, 16, 4, tile); }
INLINE void turn_q2_k(const uint8_t *const *from, Tile *tile) { turn_bits(from, 16, 2, tile); }
INLINE void turn_tq2_0(const uint8_t *const *from, Tile *tile) { turn_bits(from, 0, 2, tile); }

INLINE void turn_q5_k(const uint8_t *const *from, Tile *tile) {
    turn_bits(from, 48, 4, tile);
    turn_high_bits(from, 16, 4, tile);
}

INLINE void turn_q3_k(const uint8_t *const *from, Tile *tile) {
    turn_bits(from, 32, 2, tile);
    turn_high_bits(from, 0, 2, tile);
}

INLINE void turn_q6_k(const uint8_t *const *from, Tile *tile) {
    UNROLL for (int i = 0; i < 4; i++) {
        Pair high[4];
        columns(from, 128 + 16 * i, high);
        UNROLL for (int b = 0; b < 2; b++) {
            Pair low[4];
            columns(from, i / 2 * 64 + b * 32 + i % 2 * 16, low);
            UNROLL for (int k = 0; k < 4; k++) {
                const int four = (i / 2 * 4 + b) * 8 + i % 2 * 4 + k;
                put(tile, four, (low[k] & 15) | (shifted(high[k], 2 * b - 4) & 0x30));
                put(tile, four + 16, upper_halves(low[k]) | (shifted(high[k], 2 * b) & 0x30));
            }
        }
    }
}

/* Eight numbers of 16 outputs. */
INLINE void turn_eights(const Floats8 *of, float (*to)[TILE_OUTS]) {
    __m512 v[8], a[8];
    UNROLL for (int i = 0; i < 8; i++)
        v[i] = _mm512_insertf32x8(_mm512_castps256_ps512((__m256)of[i]), (__m256)of[i + 8], 1);
    UNROLL for (int i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        v[i + 2 * j] = (__m512)_mm512_unpacklo_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
        v[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
    }
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    UNROLL for (int i = 0; i < 4; i++) {
        STORE(__m512d, _mm512_permutex2var_pd((__m512d)v[i], low, (__m512d)v[i + 4]), to[i]);
        STORE(__m512d, _mm512_permutex2var_pd((__m512d)v[i], high, (__m512d)v[i + 4]), to[i + 4]);
    }
}
#endif
