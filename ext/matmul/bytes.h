/* Vectors of 32 bytes, or of eight numbers, in the compiler's own terms, and what it has no terms for. */

#ifndef HAS_AVX2 /* all of it is inlined: no such vector is passed in memory or not */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef uint8_t Bytes8 __attribute__((vector_size(8)));
typedef int8_t SignedBytes8 __attribute__((vector_size(8)));
typedef uint16_t Words8 __attribute__((vector_size(16)));
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef int8_t SignedBytes __attribute__((vector_size(32)));
typedef uint16_t Words16 __attribute__((vector_size(32)));
typedef int16_t Shorts8 __attribute__((vector_size(16)));
typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef uint64_t Quads __attribute__((vector_size(32)));
typedef float Floats8 __attribute__((vector_size(32)));

/* At any address. */
#define LOAD(TYPE, FROM) ({ TYPE loaded; memcpy(&loaded, FROM, sizeof loaded); loaded; })
#define STORE(TYPE, VALUE, TO) ({ TYPE stored = VALUE; memcpy(TO, &stored, sizeof stored); })

/* What stands at so many places of `A` and, counted on, `B`. PLACES is a vector as long as they are. */
#ifdef __clang__
#define SHUFFLE(PLACES, A, B, ...) __builtin_shufflevector(A, B, __VA_ARGS__)
#else
#define SHUFFLE(PLACES, A, B, ...) __builtin_shuffle(A, B, (PLACES){__VA_ARGS__})
#endif

INLINE uint16_t load_16(const uint8_t *from) { return LOAD(uint16_t, from); }
INLINE uint32_t load_32(const uint8_t *from) { return LOAD(uint32_t, from); }
INLINE uint64_t load_64(const uint8_t *from) { return LOAD(uint64_t, from); }

INLINE Floats8 splat(float x) { return (Floats8){x, x, x, x, x, x, x, x}; }

INLINE float total(Floats8 of) {
    Floats8 four = of + SHUFFLE(Ints8, of, of, 4, 5, 6, 7, 0, 1, 2, 3);
    Floats8 two = four + SHUFFLE(Ints8, four, four, 2, 3, 0, 1, 6, 7, 4, 5);
    return two[0] + two[1];
}

/* Shifted in pairs: what crosses from byte to byte is for the caller to mask. */
INLINE Bytes shift_right(Bytes of, int bits) { return (Bytes)((Words16)of >> bits); }
INLINE Bytes shift_left(Bytes of, int bits) { return (Bytes)((Words16)of << bits); }
INLINE Bytes low_nibbles(Bytes of) { return of & 15; }
INLINE Bytes high_nibbles(Bytes of) { return shift_right(of, 4) & 15; }

/* Of 16 bytes: all lower halves, then all upper ones. */
INLINE Bytes load_nibbles(const uint8_t *from) {
    Bytes16 low = LOAD(Bytes16, from), high = (Bytes16)((Words8)low >> 4);
#ifdef HAS_AVX2
    return (Bytes)_mm256_set_m128i((__m128i)high, (__m128i)low) & 15;
#else
    Bytes16 both[] = {low, high};
    return LOAD(Bytes, both) & 15;
#endif
}

/* 16 where bit i is set, else 0. */
INLINE Bytes spread_bits(uint32_t bits) {
    const uint64_t place = 0x8040201008040201u;
    const Bytes places = (Bytes)(Quads){place, place, place, place};
#ifdef HAS_AVX2
    const __m256i of_four = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    Bytes spread = (Bytes)_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), of_four);
#else
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t first = bits & 255, second = bits >> 8 & 255, third = bits >> 16 & 255, fourth = bits >> 24;
    Bytes spread = (Bytes)(Quads){first * ones, second * ones, third * ones, fourth * ones};
#endif
    return (Bytes)((spread & places) == places) & 16;
}

/* Each code's byte in a table of 16. */
INLINE Bytes lookup(const uint8_t *table, Bytes codes) {
#ifdef HAS_AVX2
    __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (Bytes)_mm256_shuffle_epi8(twice, (__m256i)codes);
#else
    uint8_t places[32], found[32];
    memcpy(places, &codes, 32);
    for (int i = 0; i < 32; i++) found[i] = table[places[i]];
    return LOAD(Bytes, found);
#endif
}

INLINE Floats8 floats_of_halves(Words8 halves) {
#ifdef HAS_AVX2
    return (Floats8)_mm256_cvtph_ps((__m128i)halves);
#else
    Floats8 floats;
    for (int i = 0; i < 8; i++) floats[i] = half_to_float(halves[i]);
    return floats;
#endif
}

INLINE Floats8 floats_of_bytes(uint64_t bytes) {
#ifdef HAS_AVX2
    return (Floats8)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)));
#else
    return __builtin_convertvector((Bytes8)bytes, Floats8);
#endif
}

INLINE Floats8 floats_of_signed_bytes(uint64_t bytes) {
#ifdef HAS_AVX2
    return (Floats8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)bytes)));
#else
    return __builtin_convertvector((SignedBytes8)bytes, Floats8);
#endif
}

#ifdef HAS_AVX2
#define PICK(OF, ...) ((Floats8)_mm256_permutevar8x32_ps((__m256)(OF), (__m256i)(Ints8){__VA_ARGS__}))
#else
#define PICK(OF, ...) pick(OF, (const int[]){__VA_ARGS__})
INLINE Floats8 pick(Floats8 of, const int *places) {
    Floats8 picked;
    UNROLL for (int i = 0; i < 8; i++) picked[i] = of[places[i]];
    return picked;
}
#endif

/* Add the products of four bytes to each sum, the first 16 bytes' to the first four sums: of codes without sign, or
 * of signed ones. Without VNNI the former are at most 127. */
INLINE Ints8 dot_bytes(Ints8 sums, Bytes codes, SignedBytes inputs, const int is_signed) {
#if defined(HAS_VNNI)
    (void)is_signed;
    return (Ints8)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)codes, (__m256i)inputs);
#elif defined(HAS_AVX2)
    __m256i factors = (__m256i)codes, others = (__m256i)inputs;
    if (is_signed) {
        others = _mm256_sign_epi8(others, factors);
        factors = _mm256_abs_epi8(factors);
    }
    __m256i pairs = _mm256_maddubs_epi16(factors, others);
    return sums + (Ints8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    Ints4 halves[2];
    UNROLL for (int i = 0; i < 2; i++) {
        halves[i] = (Ints4){0};
        UNROLL for (int j = 0; j < 2; j++) {
            const Bytes8 eight = LOAD(Bytes8, (const uint8_t *)&codes + 16 * i + 8 * j);
            const SignedBytes8 others = LOAD(SignedBytes8, (const uint8_t *)&inputs + 16 * i + 8 * j);
            const Shorts8 factors = is_signed ? __builtin_convertvector((SignedBytes8)eight, Shorts8)
                                              : __builtin_convertvector(eight, Shorts8);
            const Ints4 products = (Ints4)(factors * __builtin_convertvector(others, Shorts8));
            halves[i] += (products << 16 >> 16) + (products >> 16);
        }
    }
    return sums + LOAD(Ints8, halves);
#endif
}
