/* Attention of all tokens to all, in tiles (Dao et al. 2022): see `whole_attention_step.h`. A word is a pair
 * of bfloat16 where the CPU multiplies those, else one, as a float. Words lie so that no sum crosses lanes. */

#define QUERIES 6 /* that take from a vector of keys or values at once, whose sums are in registers */
#if LANES == 16 || defined(HAS_NEON)
#define KEY_VECTORS 4
#else
#define KEY_VECTORS 2
#endif

#ifdef HAS_BFLOAT_DOT
#define ARE_PAIRS 1
#else
#define ARE_PAIRS 0
#endif

typedef uint32_t AnyWords __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Floats add_word(Floats sums, Words words, uint32_t by) {
#ifdef HAS_BFLOAT_DOT
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)words, (__m512bh)_mm512_set1_epi32((int)by));
#else
    return sums + (Floats)words * float_of_bits(by);
#endif
}

INLINE uint32_t word_at(const uint16_t *from, int index) {
    uint32_t pair;
    if (!ARE_PAIRS) return (uint32_t)from[index] << 16;
    return memcpy(&pair, from + 2 * index, sizeof pair), pair;
}

INLINE int padded(int dim) { return (dim + LANES - 1) / LANES * LANES; }

INLINE const uint16_t *vector_at(const uint16_t *from, const ptrdiff_t strides[2], int head, int token) {
    return from + head * strides[0] + token * strides[1];
}

static void pack_keys(const WholeHead *head) {
    const WholeAttention *step = head->step;
    const int words = step->key_dim >> ARE_PAIRS;
    for (int token = 0; token < head->tokens; token++) {
        uint32_t *to = head->keys + (size_t)(token / LANES) * words * LANES + token % LANES;
        const uint16_t *key = vector_at(step->keys, step->key_strides, head->number, token);
        for (int w = 0; w < words; w++) to[w * LANES] = token < step->tokens ? word_at(key, w) : 0;
    }
}

static void pack_values(const WholeHead *head) {
    const WholeAttention *step = head->step;
    const int width = padded(step->value_dim);
    uint32_t *to = head->values;
    for (int token = 0; token < head->tokens; token += 1 + ARE_PAIRS, to += width) {
        memset(to, 0, width * sizeof *to);
        for (int i = 0; i <= ARE_PAIRS && token + i < step->tokens; i++) {
            const uint16_t *value = vector_at(step->values, step->value_strides, head->number, token + i);
            const int shift = ARE_PAIRS && !i ? 0 : 16;
            for (int d = 0; d < step->value_dim; d++) to[d] |= (uint32_t)value[d] << shift;
        }
    }
}

static void pack_whole(const WholeHead *head) {
    pack_keys(head);
    pack_values(head);
}

/* Some queries, and what they have seen so far. */
typedef struct Seen {
    uint32_t queries[QUERIES][MOST_DIM];
    float out[QUERIES][MOST_DIM], scores[QUERIES][SPAN], decay[QUERIES];
    uint32_t weights[QUERIES][SPAN];
    Softmax softmax[QUERIES];
} Seen;

/* Add the products of words by `count` vectors of them for each, `stride` apart. */
INLINE void add_words(
    const uint32_t *words, size_t word_stride, size_t vector_stride, const uint32_t *by, size_t by_stride, int count,
    const int vectors, Floats sums[QUERIES][KEY_VECTORS]
) {
    for (int w = 0; w < count; w++) {
        Words at[KEY_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            at[v] = (Words) * (const AnyWords *)(words + w * word_stride + v * vector_stride);
        UNROLL for (int q = 0; q < QUERIES; q++) UNROLL for (int v = 0; v < vectors; v++)
            sums[q][v] = add_word(sums[q][v], at[v], by[q * by_stride + w]);
    }
}

INLINE void score_span(const WholeHead *head, int token, Seen *seen) {
    const int words = head->step->key_dim >> ARE_PAIRS;
    const float scale = head->step->scale * 1.44269504f; /* scores are powers of two */
    for (int at = 0; at < SPAN; at += KEY_VECTORS * LANES) {
        const uint32_t *keys = head->keys + (size_t)(token + at) * words;
        Floats sums[QUERIES][KEY_VECTORS] = {0};
        add_words(keys, LANES, (size_t)words * LANES, seen->queries[0], MOST_DIM, words, KEY_VECTORS, sums);
        UNROLL for (int q = 0; q < QUERIES; q++) UNROLL for (int v = 0; v < KEY_VECTORS; v++)
            *(AnyFloats *)&seen->scores[q][at + v * LANES] = sums[q][v] * scale;
    }
    for (int at = head->step->tokens - token; at < SPAN; at++)
        for (int q = 0; q < QUERIES; q++) seen->scores[q][at] = -INFINITY;
}

INLINE Floats larger(Floats one, Floats other) {
    const Integers more = one > other;
    return (Floats)((more & (Integers)one) | (~more & (Integers)other));
}

/* Bits of floats are in the order of integers, those below zero turned round. */
INLINE float most_of(Floats of) {
    const Integers bits = (Integers)of;
    const int most = largest_lane(bits ^ (bits >> 31 & 0x7fffffff));
    return float_of_bits((uint32_t)(most ^ (most >> 31 & 0x7fffffff)));
}

INLINE void store_weights(Floats weights, int at, uint32_t *to) {
#ifdef HAS_BFLOAT_DOT
    _mm256_storeu_si256((__m256i *)((uint16_t *)to + at), (__m256i)_mm512_cvtneps_pbh((__m512)weights));
#else
    *(AnyFloats *)(to + at) = weights;
#endif
}

/* Two to the power of what is at most 0, as exactly as bfloat16 needs it: Taylor's polynomial of the fraction. */
INLINE Floats power_of_two(Floats x) {
    const Words is_far = (Words)(x < -126.0f);
    x = (Floats)(((Words)x & ~is_far) | ((Words)((Floats){0} - 126.0f) & is_far));
    const Floats count = x + 0x1.8p23f, rest = x - (count - 0x1.8p23f);
    Floats power = rest * 9.6181291e-3f + 5.5504109e-2f;
    power = power * rest + 2.4022651e-1f;
    power = power * rest + 6.9314718e-1f;
    power = power * rest + 1.0f;
    return (Floats)((Words)power + ((Words)count << 23));
}

INLINE void weigh_span(Seen *seen) {
    for (int q = 0; q < QUERIES; q++) {
        Softmax *softmax = &seen->softmax[q];
        const float *scores = seen->scores[q], before = softmax->most;
        Floats most = load_floats(scores), sums = {0};
        for (int at = LANES; at < SPAN; at += LANES) most = larger(load_floats(scores + at), most);
        softmax->most = fmaxf(before, most_of(most));
        for (int at = 0; at < SPAN; at += LANES) {
            Floats weights = power_of_two(load_floats(scores + at) - softmax->most);
            sums += weights;
            store_weights(weights, at, seen->weights[q]);
        }
        seen->decay[q] = exp2f(before - softmax->most);
        softmax->total = softmax->total * seen->decay[q] + sum(sums);
    }
}

INLINE void add_span(const WholeHead *head, int token, int d, const int vectors, Seen *seen) {
    const size_t width = padded(head->step->value_dim);
    const uint32_t *values = head->values + (token >> ARE_PAIRS) * width + d;
    Floats sums[QUERIES][KEY_VECTORS];
    UNROLL for (int q = 0; q < QUERIES; q++) UNROLL for (int v = 0; v < vectors; v++)
        sums[q][v] = load_floats(&seen->out[q][d + v * LANES]) * seen->decay[q];
    add_words(values, width, LANES, seen->weights[0], SPAN, SPAN >> ARE_PAIRS, vectors, sums);
    UNROLL for (int q = 0; q < QUERIES; q++) UNROLL for (int v = 0; v < vectors; v++)
        *(AnyFloats *)&seen->out[q][d + v * LANES] = sums[q][v];
}

INLINE void store_results(const WholeHead *head, int row, int count, const Seen *seen) {
    const WholeAttention *step = head->step;
    const int dim = step->value_dim;
    for (int q = 0; q < count; q++) {
        uint16_t *out = step->out + ((size_t)(row + q) * step->heads + head->number) * dim;
        const float share = 1 / seen->softmax[q].total;
        for (int d = 0; d < dim; d++) out[d] = bfloat_of(seen->out[q][d] * share);
    }
}

/* Look up some queries from `row` on; beyond `end` there are none, and the first stands for them. */
INLINE void start(const WholeHead *head, int row, int end, Seen *seen) {
    const WholeAttention *step = head->step;
    memset(seen->out, 0, sizeof seen->out);
    for (int q = 0; q < QUERIES; q++) {
        const int at = row + q < end ? row + q : row, words = step->key_dim >> ARE_PAIRS;
        const uint16_t *query = vector_at(step->query, step->query_strides, head->number, at);
        for (int w = 0; w < words; w++) seen->queries[q][w] = word_at(query, w);
        seen->softmax[q] = (Softmax){-INFINITY, 0};
    }
}

static void attend_whole(const WholeHead *head, int first, int count) {
    const int width = padded(head->step->value_dim), end = first + count;
    Seen seen;
    for (int row = first; row < end; row += QUERIES) {
        start(head, row, end, &seen);
        for (int token = 0; token < head->step->tokens; token += SPAN) {
            score_span(head, token, &seen);
            weigh_span(&seen);
            int d = 0;
            for (; d + KEY_VECTORS * LANES <= width; d += KEY_VECTORS * LANES)
                add_span(head, token, d, KEY_VECTORS, &seen);
            for (; d < width; d += LANES) add_span(head, token, d, 1, &seen);
        }
        store_results(head, row, end - row < QUERIES ? end - row : QUERIES, &seen);
    }
}
