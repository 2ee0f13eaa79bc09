/* Codes of 64 weights, in as few vectors as there are for them. */

#if LANES == 16
typedef uint8_t Pair __attribute__((vector_size(64)));
typedef int16_t Shorts32 __attribute__((vector_size(64)));

INLINE Pair pair(__m256i first, __m256i second) {
    return (Pair)_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

INLINE Pair load_pair(const uint8_t *from, const uint8_t *other) {
    return pair(LOAD(__m256i, from), LOAD(__m256i, other));
}

INLINE Pair with_bits_of(Pair of, uint8_t bits) { return of & bits; }
INLINE Pair joined(Pair of, Pair others) { return of | others; }
INLINE Pair flipped(Pair of) { return of ^ 128; }
INLINE Pair upper_halves(Pair of) { return (Pair)_mm512_srli_epi16((__m512i)of, 4) & 15; }

/* The same 32 bytes, shifted right by so many bits and by so many others, or left, if both are negative. What crosses
 * from byte to byte is for the caller to mask. */
INLINE Pair load_shifted(const uint8_t *from, const int bits, const int others) {
    const __m512i twice = _mm512_broadcast_i64x4(LOAD(__m256i, from));
    const int a = bits < 0 ? -bits : bits, b = bits < 0 ? -others : others;
    const __m512i shifts = (__m512i)pair(_mm256_set1_epi64x(a), _mm256_set1_epi64x(b));
    return (Pair)(bits < 0 ? _mm512_sllv_epi64(twice, shifts) : _mm512_srlv_epi64(twice, shifts));
}

/* Of twice 16 bytes: each one's lower halves, then its upper ones. */
INLINE Pair load_nibble_pair(const uint8_t *from, const uint8_t *other) {
    const __m512i first = _mm512_broadcast_i32x4(LOAD(__m128i, from));
    const __m512i both = _mm512_mask_broadcast_i32x4(first, 0xff00, LOAD(__m128i, other));
    return (Pair)_mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4)) & 15;
}

/* Of 32 bytes: each eight's lower halves, then their upper ones. */
INLINE Pair load_nibble_eights(const uint8_t *from) {
    const __m512i places = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
    const __m512i twice = _mm512_permutexvar_epi64(places, _mm512_castsi256_si512(LOAD(__m256i, from)));
    return (Pair)_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4)) & 15;
}

/* 16 where a bit is set, else 0. */
INLINE Pair spread_pair(uint32_t bits, uint32_t others) {
    return (Pair)_mm512_maskz_set1_epi8(bits | (uint64_t)others << 32, 16);
}

INLINE Pair looked_up(const uint8_t *table, Pair codes) {
    return (Pair)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(LOAD(__m128i, table)), (__m512i)codes);
}
#elif defined(HAS_NEON)
typedef struct Pair {
    uint8x16_t at[4];
} Pair;

#define OF_EACH(CALL) ({ Pair made; UNROLL for (int i = 0; i < 4; i++) made.at[i] = CALL; made; })

INLINE Pair load_pair(const uint8_t *from, const uint8_t *other) {
    return (Pair){{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(other), vld1q_u8(other + 16)}};
}

INLINE Pair with_bits_of(Pair of, uint8_t bits) { return OF_EACH(of.at[i] & bits); }
INLINE Pair joined(Pair of, Pair others) { return OF_EACH(of.at[i] | others.at[i]); }
INLINE Pair flipped(Pair of) { return OF_EACH(of.at[i] ^ 128); }
INLINE Pair upper_halves(Pair of) { return OF_EACH(of.at[i] >> 4); }

/* The same 32 bytes, shifted right by so many bits and by so many others, or left, if both are negative. What crosses
 * from byte to byte is for the caller to mask. */
INLINE Pair load_shifted(const uint8_t *from, const int bits, const int others) {
    const uint8x16_t of[] = {vld1q_u8(from), vld1q_u8(from + 16)};
    return OF_EACH(vshlq_u8(of[i % 2], vdupq_n_s8((int8_t)-(i < 2 ? bits : others))));
}

/* Of twice 16 bytes: each one's lower halves, then its upper ones. */
INLINE Pair load_nibble_pair(const uint8_t *from, const uint8_t *other) {
    const uint8x16_t of[] = {vld1q_u8(from), vld1q_u8(other)};
    return OF_EACH(i % 2 ? of[i / 2] >> 4 : of[i / 2] & 15);
}

/* Of 32 bytes: each eight's lower halves, then their upper ones. */
INLINE Pair load_nibble_eights(const uint8_t *from) {
    return OF_EACH(vcombine_u8(vld1_u8(from + 8 * i) & 15, vld1_u8(from + 8 * i) >> 4));
}

/* 16 where a bit is set, else 0. */
INLINE Pair spread_pair(uint32_t bits, uint32_t others) {
    const uint8x8_t places = vcreate_u8(0x8040201008040201u);
    const uint64_t all = bits | (uint64_t)others << 32;
    return OF_EACH(vcombine_u8(vtst_u8(vdup_n_u8((uint8_t)(all >> 16 * i)), places),
                               vtst_u8(vdup_n_u8((uint8_t)(all >> (16 * i + 8))), places)) & 16);
}

INLINE Pair looked_up(const uint8_t *table, Pair codes) {
    const uint8x16_t of = vld1q_u8(table);
    return OF_EACH(vqtbl1q_u8(of, codes.at[i]));
}
#else
typedef struct Pair {
    Bytes first, second;
} Pair;

INLINE Pair pair(Bytes first, Bytes second) { return (Pair){first, second}; }

INLINE Pair load_pair(const uint8_t *from, const uint8_t *other) {
    return pair(LOAD(Bytes, from), LOAD(Bytes, other));
}

INLINE Pair with_bits_of(Pair of, uint8_t bits) { return pair(of.first & bits, of.second & bits); }
INLINE Pair joined(Pair of, Pair others) { return pair(of.first | others.first, of.second | others.second); }
INLINE Pair flipped(Pair of) { return pair(of.first ^ 128, of.second ^ 128); }
INLINE Pair upper_halves(Pair of) { return pair(high_nibbles(of.first), high_nibbles(of.second)); }

/* The same 32 bytes, shifted right by so many bits and by so many others, or left, if both are negative. What crosses
 * from byte to byte is for the caller to mask. */
INLINE Pair load_shifted(const uint8_t *from, const int bits, const int others) {
    const Bytes of = LOAD(Bytes, from);
    if (bits < 0) return pair(shift_left(of, -bits), shift_left(of, -others));
    return pair(shift_right(of, bits), shift_right(of, others));
}

/* Of twice 16 bytes: each one's lower halves, then its upper ones. */
INLINE Pair load_nibble_pair(const uint8_t *from, const uint8_t *other) {
    return pair(load_nibbles(from), load_nibbles(other));
}

/* Of 32 bytes: each eight's lower halves, then their upper ones. */
INLINE Pair load_nibble_eights(const uint8_t *from) {
    const Bytes packed = LOAD(Bytes, from);
    const Quads low = (Quads)low_nibbles(packed), high = (Quads)high_nibbles(packed);
    return pair((Bytes)SHUFFLE(Quads, low, high, 0, 4, 1, 5), (Bytes)SHUFFLE(Quads, low, high, 2, 6, 3, 7));
}

/* 16 where a bit is set, else 0. */
INLINE Pair spread_pair(uint32_t bits, uint32_t others) { return pair(spread_bits(bits), spread_bits(others)); }

INLINE Pair looked_up(const uint8_t *table, Pair codes) {
    return pair(lookup(table, codes.first), lookup(table, codes.second));
}
#endif
