/* Attention of one token, a softmax that is kept up to date while keys and values pass by (Milakov and
 * Gimelshein 2018): see `attention_step.h`. */

#define PASSING 64      /* tokens that are looked at before the softmax is brought up to date */
#define TOKENS_AHEAD 16 /* at which keys are asked for: a head's are far from each other */

INLINE Floats load_stored(const uint8_t *from, int index, const Stored stored) {
    if (stored == STORED_FLOATS) return load_floats((const float *)from + index);
    if (stored == STORED_BFLOATS) return load_bfloats((const uint16_t *)from + index);
    return load_halves((const uint16_t *)from + index);
}

/* e to the power of what is at most 0: the polynomial of Cephes' expf. */
INLINE Floats exp_of(Floats x) {
    Words is_far = (Words)(x < -87.0f);
    x = (Floats)(((Words)x & ~is_far) | ((Words)((Floats){0} - 87.0f) & is_far));
    Floats count = x * 1.44269504f + 0x1.8p23f - 0x1.8p23f;
    Floats rest = x - count * 0.693359375f + count * 2.12194440e-4f;
    Floats power = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    Words exponent = (Words)__builtin_convertvector(count, Integers) + 127;
    return power * (Floats)(exponent << 23);
}

/* Find the places of some tokens in the pages, in vectors of a key head. */
INLINE void find_places(const AttentionHead *head, int64_t token, int count, size_t *places) {
    const AttentionStep *step = head->step;
    const int64_t *page = head->pages + token / step->page_size;
    int offset = (int)(token % step->page_size);
    for (int i = 0; i < count; i++) {
        places[i] = (size_t)(*page * step->page_size + offset) * step->key_heads;
        if (++offset == step->page_size) offset = 0, page++;
    }
}

INLINE void ask_for(const uint8_t *vector, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(vector + at);
}

INLINE void score(
    const AttentionHead *head, const float *query, const size_t *places, int count, const Stored stored, float *scores
) {
    const int dim = head->step->key_dim, item_bytes = stored == STORED_FLOATS ? 4 : 2;
    const size_t bytes = (size_t)dim * item_bytes, value_bytes = (size_t)head->step->value_dim * item_bytes;
    for (int at = 0; at < count; at += 4) {
        const uint8_t *keys[4];
        Floats sums[4] = {0};
        UNROLL for (int i = 0; i < 4; i++) {
            int token = at + i < count ? at + i : at;
            keys[i] = head->keys + places[token] * bytes;
            ask_for(head->values + places[token] * value_bytes, value_bytes);
            if (token + TOKENS_AHEAD < count) ask_for(head->keys + places[token + TOKENS_AHEAD] * bytes, bytes);
        }
        for (int d = 0; d < dim; d += LANES) {
            Floats q = load_floats(query + d);
            UNROLL for (int i = 0; i < 4; i++) sums[i] += q * load_stored(keys[i], d, stored);
        }
        *(AnyFour *)(scores + at) = sum_each(sums) * head->step->scale;
    }
}

INLINE void add_values(
    const AttentionHead *head, const float *weights, const size_t *places, int count, float decay,
    const Stored stored, float *out
) {
    const int dim = head->step->value_dim;
    const size_t bytes = (size_t)dim * (stored == STORED_FLOATS ? 4 : 2);
    for (int d = 0; d < dim; d += LANES) {
        Floats sums[2] = {load_floats(out + d) * decay, {0}};
        int at = 0;
        for (; at + 2 <= count; at += 2) UNROLL for (int i = 0; i < 2; i++)
            sums[i] += load_stored(head->values + places[at + i] * bytes, d, stored) * weights[at + i];
        if (at < count) sums[0] += load_stored(head->values + places[at] * bytes, d, stored) * weights[at];
        *(AnyFloats *)(out + d) = sums[0] + sums[1];
    }
}

/* What a query head has seen so far: the largest score, and the sum of all powers over that of it. */
typedef struct Softmax {
    float most, total;
} Softmax;

INLINE void look_at(
    const AttentionHead *head, int number, const size_t *places, int count, const Stored stored, Softmax *seen
) {
    const AttentionStep *step = head->step;
    float scores[PASSING], before = seen->most;
    score(head, head->query + (size_t)number * step->key_dim, places, count, stored, scores);
    for (int i = 0; i < count; i++) seen->most = scores[i] > seen->most ? scores[i] : seen->most;
    for (int i = count; i < PASSING; i++) scores[i] = -INFINITY;
    Floats sums = {0};
    for (int i = 0; i < count; i += LANES) {
        Floats weights = exp_of(load_floats(scores + i) - seen->most);
        *(AnyFloats *)(scores + i) = weights;
        sums += weights;
    }
    float decay = expf(before - seen->most);
    seen->total = seen->total * decay + sum(sums);
    add_values(head, scores, places, count, decay, stored, head->out + (size_t)number * step->value_dim);
}

INLINE void attend_stored(const AttentionHead *head, const Stored stored) {
    const int dim = head->step->value_dim;
    Softmax seen[MAX_GROUP];
    for (int h = 0; h < head->heads; h++) seen[h] = head->sinks ? (Softmax){head->sinks[h], 1} : (Softmax){-INFINITY, 0};
    memset(head->out, 0, (size_t)head->heads * dim * sizeof(float));
    for (int64_t token = head->first; token < head->end; token += PASSING) {
        int count = head->end - token < PASSING ? (int)(head->end - token) : PASSING;
        size_t places[PASSING];
        find_places(head, token, count, places);
        for (int h = 0; h < head->heads; h++) look_at(head, h, places, count, stored, &seen[h]);
    }
    for (int h = 0; h < head->heads; h++) {
        float *out = head->out + (size_t)h * dim;
        for (int d = 0; d < dim; d += LANES) *(AnyFloats *)(out + d) = load_floats(out + d) / seen[h].total;
    }
}

static void attend_head(const AttentionHead *head) {
    switch (head->step->stored) {
        case STORED_FLOATS: attend_stored(head, STORED_FLOATS); return;
        case STORED_BFLOATS: attend_stored(head, STORED_BFLOATS); return;
        case STORED_HALVES: attend_stored(head, STORED_HALVES); return;
    }
}
