/* Attention of several tokens of a sequence to those before them and to themselves, in tiles (Dao et al. 2022): see
 * `attention_step.h`. Queries lie across lanes while keys and values pass by, so that no sum crosses lanes. They do so
 * as words: pairs of bfloat16 where the CPU multiplies those, else floats. */

#define TILE_VECTORS 2 /* of queries, whose sums are in registers */
#define TILE_QUERIES (TILE_VECTORS * LANES)
#if LANES == 16 || defined(HAS_NEON)
#define WORDS_AT_ONCE 8
#else
#define WORDS_AT_ONCE 4
#endif
#define HIDDEN -1e30f /* the score of a key that a query does not see */

typedef struct QueryTile {
    Floats queries[MOST_DIM][TILE_VECTORS]; /* [words of a query] */
    Floats out[MOST_DIM][TILE_VECTORS];
    Floats weights[PASSING][TILE_VECTORS]; /* [keys], or pairs of them; scores at first */
    Floats most[TILE_VECTORS], total[TILE_VECTORS], decay[TILE_VECTORS];
    Integers first[TILE_VECTORS], last[TILE_VECTORS]; /* of the tokens that queries see */
    uint32_t keys[PASSING * MOST_DIM];   /* (tokens, words of a key) */
    uint32_t values[PASSING * MOST_DIM]; /* (tokens, or pairs of them, words of all their values) */
} QueryTile;

INLINE Floats add_passing_word(Floats sums, Floats across, uint32_t word, const int are_pairs) {
#ifdef HAS_BFLOAT_DOT
    const __m512i words = _mm512_set1_epi32((int)word);
    if (are_pairs) return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)across, (__m512bh)words);
#else
    (void)are_pairs;
#endif
    return sums + across * float_of_bits(word);
}

/* Add the products of what lies across lanes by words, which are so far apart: from sum to sum, and in a sum. */
INLINE void add_passing(
    const Floats (*across)[TILE_VECTORS], const uint32_t *words, int between, int stride, int count, const int vectors,
    const int are_pairs, Floats sums[WORDS_AT_ONCE][TILE_VECTORS]
) {
    for (int i = 0; i < count; i++, words += stride) UNROLL for (int w = 0; w < WORDS_AT_ONCE; w++)
        UNROLL for (int v = 0; v < vectors; v++)
            sums[w][v] = add_passing_word(sums[w][v], across[i][v], words[w * between], are_pairs);
}

INLINE void take_words(const uint8_t *from, int dim, const Stored stored, uint32_t *to) {
    for (int d = 0; d < dim; d += LANES) *(AnyFloats *)(to + d) = load_stored(from, d, stored);
}

INLINE void pair_words(const uint8_t *one, const uint8_t *other, int dim, uint32_t *to) {
    const uint16_t *low = (const uint16_t *)one, *high = (const uint16_t *)other;
    for (int d = 0; d < dim; d += LANES) {
        Words lower = __builtin_convertvector(*(const AnyHalves *)(low + d), Words);
        Words upper = __builtin_convertvector(*(const AnyHalves *)(high + d), Words);
        *(AnyFloats *)(to + d) = (Floats)(lower | upper << 16);
    }
}

/* Bring keys and values of some tokens near, and nothing for those that are missing. */
INLINE void fetch_tokens(
    const AttentionHead *head, int64_t token, int count, const Stored stored, const int are_pairs, QueryTile *tile
) {
    const int dim = head->step->value_dim, key_words = head->step->key_dim >> are_pairs;
    const size_t item = stored == STORED_FLOATS ? 4 : 2, bytes = dim * item, key_bytes = head->step->key_dim * item;
    size_t places[PASSING + 1];
    find_places(head, token, count, places);
    const int missing = PASSING - count, items = (count + are_pairs) >> are_pairs;
    memset(tile->keys + count * key_words, 0, (size_t)missing * key_words * sizeof *tile->keys);
    memset(tile->values + items * dim, 0, (size_t)((PASSING >> are_pairs) - items) * dim * sizeof *tile->values);
    for (int i = 0; i < count; i++) {
        const uint8_t *key = head->keys + places[i] * key_bytes;
        if (are_pairs) memcpy(tile->keys + i * key_words, key, key_bytes);
        else take_words(key, key_words, stored, tile->keys + i * key_words);
    }
    for (int i = 0; i < count; i += 1 + are_pairs) {
        const uint8_t *value = head->values + places[i] * bytes;
        uint32_t *to = tile->values + (size_t)(i >> are_pairs) * dim;
        if (!are_pairs) take_words(value, dim, stored, to);
        else pair_words(value, head->values + places[i + 1 < count ? i + 1 : i] * bytes, dim, to);
    }
}

INLINE Floats seen_by(const QueryTile *tile, int v, int64_t token, Floats scores) {
    const Integers number = (Integers){0} + (int32_t)token;
    const Words is_hidden = (Words)((number > tile->last[v]) | (number < tile->first[v]));
    return (Floats)(((Words)scores & ~is_hidden) | ((Words)((Floats){0} + HIDDEN) & is_hidden));
}

INLINE void score_keys(
    const AttentionHead *head, int64_t token, int see_all, const int vectors, const int are_pairs, QueryTile *tile
) {
    const int words = head->step->key_dim >> are_pairs;
    for (int at = 0; at < PASSING; at += WORDS_AT_ONCE) {
        Floats sums[WORDS_AT_ONCE][TILE_VECTORS] = {0};
        add_passing(tile->queries, tile->keys + at * words, words, 1, words, vectors, are_pairs, sums);
        UNROLL for (int i = 0; i < WORDS_AT_ONCE; i++) UNROLL for (int v = 0; v < vectors; v++) {
            Floats scores = sums[i][v] * head->step->scale;
            tile->weights[at + i][v] = see_all ? scores : seen_by(tile, v, token + at + i, scores);
        }
    }
}

INLINE Floats pair_weights(Floats one, Floats other) {
#ifdef HAS_BFLOAT_DOT
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)one));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)other));
    return (Floats)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    return one + other;
#endif
}

INLINE void weigh_keys(int v, const int are_pairs, QueryTile *tile) {
    const Floats before = tile->most[v];
    Floats most = before, sums = {0};
    for (int i = 0; i < PASSING; i++) most = larger(tile->weights[i][v], most);
    for (int i = 0; i < PASSING; i += 2) {
        const Floats one = exp_of(tile->weights[i][v] - most), other = exp_of(tile->weights[i + 1][v] - most);
        sums += one + other;
        if (are_pairs) tile->weights[i / 2][v] = pair_weights(one, other);
        else tile->weights[i][v] = one, tile->weights[i + 1][v] = other;
    }
    tile->most[v] = most;
    tile->decay[v] = exp_of(before - most);
    tile->total[v] = tile->total[v] * tile->decay[v] + sums;
}

INLINE void pass_values(const AttentionHead *head, const int vectors, const int are_pairs, QueryTile *tile) {
    const int dim = head->step->value_dim;
    for (int d = 0; d < dim; d += WORDS_AT_ONCE) {
        Floats sums[WORDS_AT_ONCE][TILE_VECTORS];
        UNROLL for (int i = 0; i < WORDS_AT_ONCE; i++) UNROLL for (int v = 0; v < vectors; v++)
            sums[i][v] = tile->out[d + i][v] * tile->decay[v];
        add_passing(tile->weights, tile->values + d, 1, dim, PASSING >> are_pairs, vectors, are_pairs, sums);
        UNROLL for (int i = 0; i < WORDS_AT_ONCE; i++) UNROLL for (int v = 0; v < vectors; v++)
            tile->out[d + i][v] = sums[i][v];
    }
}

/* Where a query is among those of its sequence's new tokens. */
typedef struct QueryPlace {
    int token, head;
} QueryPlace;

INLINE QueryPlace query_place(const AttentionHead *head, int number) {
    return (QueryPlace){number / head->heads, number % head->heads};
}

INLINE void set_lane(const AttentionHead *head, int number, int lane, const int are_pairs, QueryTile *tile) {
    const AttentionStep *step = head->step;
    const QueryPlace at = query_place(head, number);
    const float *query = head->query + at.token * step->query_stride + (size_t)at.head * step->key_dim;
    const int v = lane / LANES, l = lane % LANES, last = (int)head->end - step->width + at.token;
    uint32_t *words = (uint32_t *)tile->queries + lane;
    for (int w = 0; w < step->key_dim >> are_pairs; w++, words += TILE_QUERIES)
        *words = are_pairs ? bfloat_of(query[2 * w]) | (uint32_t)bfloat_of(query[2 * w + 1]) << 16
                           : bits_of_float(query[w]);
    tile->last[v][l] = last;
    tile->first[v][l] = step->window && last >= step->window ? last - step->window + 1 : 0;
    tile->most[v][l] = head->sinks ? head->sinks[at.head] : HIDDEN;
    tile->total[v][l] = head->sinks ? 1 : 0;
}

INLINE void store_lane(const AttentionHead *head, int number, int lane, const QueryTile *tile) {
    const AttentionStep *step = head->step;
    const QueryPlace at = query_place(head, number);
    float *out = head->out + ((size_t)at.token * step->heads + at.head) * step->value_dim;
    const float share = 1 / tile->total[lane / LANES][lane % LANES];
    for (int d = 0; d < step->value_dim; d++) out[d] = tile->out[d][lane / LANES][lane % LANES] * share;
}

/* Lanes beyond the last query do what the first one does. */
INLINE void attend_lanes(
    const AttentionHead *head, int first, int count, const int vectors, const Stored stored, const int are_pairs
) {
    QueryTile tile;
    for (int lane = 0; lane < vectors * LANES; lane++)
        set_lane(head, first + (lane < count ? lane : 0), lane, are_pairs, &tile);
    memset(tile.out, 0, head->step->value_dim * sizeof *tile.out);
    const int near = tile.last[0][0], far = tile.last[(count - 1) / LANES][(count - 1) % LANES];
    const int seen_by_all = tile.first[(count - 1) / LANES][(count - 1) % LANES];
    for (int token = tile.first[0][0]; token <= far; token += PASSING) {
        const int left = far + 1 - token, see_all = token >= seen_by_all && token + PASSING <= near + 1;
        fetch_tokens(head, token, left < PASSING ? left : PASSING, stored, are_pairs, &tile);
        score_keys(head, token, see_all, vectors, are_pairs, &tile);
        for (int v = 0; v < vectors; v++) weigh_keys(v, are_pairs, &tile);
        pass_values(head, vectors, are_pairs, &tile);
    }
    for (int lane = 0; lane < count; lane++) store_lane(head, first + lane, lane, &tile);
}

INLINE void attend_tile_stored(const AttentionHead *head, int first, int count, const Stored stored) {
#ifdef HAS_BFLOAT_DOT
    const int are_pairs = stored == STORED_BFLOATS;
#else
    const int are_pairs = 0;
#endif
    if (count <= LANES) attend_lanes(head, first, count, 1, stored, are_pairs);
    else attend_lanes(head, first, count, TILE_VECTORS, stored, are_pairs);
}

static void attend_tile(const AttentionHead *head, int first, int count) {
    switch (head->step->stored) {
        case STORED_FLOATS: attend_tile_stored(head, first, count, STORED_FLOATS); return;
        case STORED_BFLOATS: attend_tile_stored(head, first, count, STORED_BFLOATS); return;
        case STORED_HALVES: attend_tile_stored(head, first, count, STORED_HALVES); return;
    }
}
