/* A key head of a sequence in the gated delta rule's layer: see `delta_step.h`. */

#define DELTA_VECTORS (32 / LANES) /* of a state's columns that are read at once */
#define TOGETHER 16          /* tokens that are convolved before they are read */

/* Channels that follow each other in inputs and tails, and where they go in a row of a key head's own. */
typedef struct Channels {
    int from, to, count;
} Channels;

/* A key head's work: rows of `size` floats have its query, its key, and the values of its heads. */
typedef struct DeltaWork {
    const DeltaStep *step;
    Channels parts[3];
    int num_channels, num_inputs; /* of a token */
    int size;
    const float *inputs; /* of the sequence */
    float *mixed;        /* (TOGETHER, size) */
} DeltaWork;

/* What a token does to a head's state, and the product of its query and key. */
typedef struct DeltaGates {
    float decay, strength, alike;
} DeltaGates;

INLINE float silu_of(float x) { return x / (1.0f + expf(-x)); }

INLINE void convolve(const DeltaWork *work, const float *window, int count) {
    const int kernel = work->step->kernel, size = work->size;
    for (int p = 0; p < 3; p++) {
        const Channels part = work->parts[p];
        const float *weights = work->step->convolution + part.from;
        for (int t = 0; t < count; t++) {
            const float *from = window + (size_t)t * size + part.to;
            float *to = work->mixed + (size_t)t * size + part.to;
            int c = 0;
            for (; c + LANES <= part.count; c += LANES) {
                Floats sums = {0};
                for (int i = 0; i < kernel; i++)
                    sums += load_floats(from + i * size + c) * load_floats(weights + (size_t)i * work->num_channels + c);
                *(AnyFloats *)(to + c) = gated(sums, (Floats){0} + 1.0f);
            }
            for (; c < part.count; c++) {
                float total = 0;
                for (int i = 0; i < kernel; i++) total += from[i * size + c] * weights[(size_t)i * work->num_channels + c];
                to[c] = silu_of(total);
            }
        }
    }
}

INLINE float product_of(const float *x, const float *y, int dim) {
    Floats sums = {0};
    int d = 0;
    for (; d + LANES <= dim; d += LANES) sums += load_floats(x + d) * load_floats(y + d);
    float total = sum(sums);
    for (; d < dim; d++) total += x[d] * y[d];
    return total;
}

INLINE void make_length_one(float *x, int dim) {
    float scale = 1 / sqrtf(product_of(x, x, dim) + 1e-6f);
    for (int d = 0; d < dim; d++) x[d] *= scale;
}

/* Let some columns of a state decay and learn a token's change, and find in them what the next one looks for. */
INLINE void learn(
    const DeltaWork *work, float *state, int t, float decay, const Floats *change, const int vectors, const int reads,
    Floats *by_key, Floats *by_query
) {
    const int dim = work->step->key_dim, width = work->step->value_dim;
    const float *key = work->mixed + (size_t)t * work->size + dim;
    const float *query = key - dim + work->size, *next = query + dim;
    UNROLL for (int i = 0; i < vectors; i++) by_key[i] = by_query[i] = (Floats){0};
    for (int row = 0; row < dim; row++) {
        float *at = state + (size_t)row * width;
        UNROLL for (int i = 0; i < vectors; i++) {
            Floats values = load_floats(at + i * LANES) * decay + change[i] * key[row];
            *(AnyFloats *)(at + i * LANES) = values;
            if (!reads) continue;
            by_key[i] += values * next[row];
            by_query[i] += values * query[row];
        }
    }
}

INLINE void delta_columns(
    const DeltaWork *work, float *state, const float *value, int count, const DeltaGates *gates, float *out,
    const int vectors
) {
    const DeltaStep *step = work->step;
    const size_t out_stride = (size_t)step->heads * step->value_dim;
    const float *query = work->mixed, *key = query + step->key_dim;
    Floats by_key[DELTA_VECTORS], by_query[DELTA_VECTORS], change[DELTA_VECTORS];
    UNROLL for (int i = 0; i < vectors; i++) by_key[i] = by_query[i] = (Floats){0};
    for (int row = 0; row < step->key_dim; row++) {
        UNROLL for (int i = 0; i < vectors; i++) {
            Floats values = load_floats(state + (size_t)row * step->value_dim + i * LANES);
            by_key[i] += values * key[row];
            by_query[i] += values * query[row];
        }
    }
    for (int t = 0; t < count; t++, value += work->size, out += out_stride) {
        const DeltaGates of = gates[t];
        UNROLL for (int i = 0; i < vectors; i++) {
            change[i] = (load_floats(value + i * LANES) - by_key[i] * of.decay) * of.strength;
            *(AnyFloats *)(out + i * LANES) = by_query[i] * of.decay + change[i] * of.alike;
        }
        if (t + 1 < count) learn(work, state, t, of.decay, change, vectors, 1, by_key, by_query);
        else learn(work, state, t, of.decay, change, vectors, 0, by_key, by_query);
    }
}

static void delta_column(
    const DeltaWork *work, float *state, const float *value, int count, const DeltaGates *gates, float *out
) {
    const int dim = work->step->key_dim, width = work->step->value_dim;
    for (int t = 0; t < count; t++) {
        const float *query = work->mixed + (size_t)t * work->size, *key = query + dim;
        float by_key = 0, by_query = 0;
        for (int row = 0; row < dim; row++) {
            by_key += state[(size_t)row * width] * key[row];
            by_query += state[(size_t)row * width] * query[row];
        }
        float change = (value[(size_t)t * work->size] - by_key * gates[t].decay) * gates[t].strength;
        out[(size_t)t * work->step->heads * width] = by_query * gates[t].decay + change * gates[t].alike;
        for (int row = 0; row < dim; row++)
            state[(size_t)row * width] = state[(size_t)row * width] * gates[t].decay + change * key[row];
    }
}

/* Norm what a head has read, (value_dim), and gate it. */
INLINE void finish(const DeltaStep *step, const float *gate, float *out) {
    const int dim = step->value_dim;
    float scale = 1 / sqrtf(product_of(out, out, dim) / (float)dim + step->eps);
    int d = 0;
    for (; d + LANES <= dim; d += LANES)
        *(AnyFloats *)(out + d) = gated(load_floats(gate + d), load_floats(out + d) * scale * load_floats(step->norm + d));
    for (; d < dim; d++) out[d] = out[d] * scale * step->norm[d] * silu_of(gate[d]);
}

static void read_head(const DeltaWork *work, int head, int at, int first, int count, float *state, float *out) {
    const DeltaStep *step = work->step;
    const int dim = step->value_dim, out_stride = step->heads * dim;
    DeltaGates gates[TOGETHER];
    for (int t = 0; t < count; t++) {
        const float *mixed = work->mixed + (size_t)t * work->size;
        const float *of_heads = work->inputs + (size_t)(first + t) * work->num_inputs + work->num_channels + out_stride;
        float rate = of_heads[step->heads + head] + step->rate_bias[head];
        gates[t].decay = expf((rate > 20 ? rate : log1pf(expf(rate))) * step->rate[head]);
        gates[t].strength = step->most / (1.0f + expf(-of_heads[head]));
        gates[t].alike = product_of(mixed, mixed + step->key_dim, step->key_dim);
    }
    const float *value = work->mixed + at;
    int column = 0;
    for (; column + 32 <= dim; column += 32)
        delta_columns(work, state + column, value + column, count, gates, out + column, DELTA_VECTORS);
    for (; column + LANES <= dim; column += LANES)
        delta_columns(work, state + column, value + column, count, gates, out + column, 1);
    for (; column < dim; column++) delta_column(work, state + column, value + column, count, gates, out + column);
    const float *gate = work->inputs + (size_t)first * work->num_inputs + work->num_channels + head * dim;
    for (int t = 0; t < count; t++) finish(step, gate + (size_t)t * work->num_inputs, out + (size_t)t * out_stride);
}

/* Copy a tail, (kept, channels), to rows of a key head's channels, or back. */
INLINE void copy_tail(const DeltaWork *work, uint8_t *tail, float *rows, const int is_back) {
    const int kept = work->step->kernel - 1;
    for (int i = 0; i < kept; i++) {
        for (int p = 0; p < 3; p++) {
            const Channels part = work->parts[p];
            const size_t from = (size_t)i * work->num_channels + part.from;
            float *to = rows + (size_t)i * work->size + part.to;
            for (int c = 0; c < part.count; c++) {
                float *number = (float *)tail + from + c;
                uint16_t *half = (uint16_t *)tail + from + c;
                if (work->step->stored == STORED_FLOATS) *(is_back ? number : to + c) = is_back ? to[c] : *number;
                else if (is_back) *half = bfloat_of(to[c]);
                else to[c] = float_of_bits((uint32_t)*half << 16);
            }
        }
    }
}

static void delta_head(const DeltaStep *step, int row, int key_head) {
    const int dim = step->key_dim, width = step->value_dim, kept = step->kernel - 1;
    const int keys = step->key_heads * dim, values = step->heads * width, heads = step->heads / step->key_heads;
    const int size = 2 * dim + heads * width, channels = 2 * keys + values, inputs = channels + values + 2 * step->heads;
    float window[(size_t)(kept + TOGETHER) * size], mixed[(size_t)TOGETHER * size];
    const DeltaWork work = {
        .step = step,
        .parts = {{key_head * dim, 0, dim}, {keys + key_head * dim, dim, dim},
                  {2 * keys + key_head * heads * width, 2 * dim, heads * width}},
        .num_channels = channels,
        .num_inputs = inputs,
        .size = size,
        .inputs = step->inputs + (size_t)row * step->width * inputs,
        .mixed = mixed,
    };
    const size_t slot = step->slots[row], item_bytes = step->stored == STORED_FLOATS ? 4 : 2;
    uint8_t *tail = step->tails + slot * kept * channels * item_bytes;
    copy_tail(&work, tail, window, 0);
    for (int first = 0; first < step->width; first += TOGETHER) {
        int count = step->width - first < TOGETHER ? step->width - first : TOGETHER;
        for (int t = 0; t < count; t++)
            for (int p = 0; p < 3; p++)
                memcpy(window + (size_t)(kept + t) * size + work.parts[p].to,
                       work.inputs + (size_t)(first + t) * inputs + work.parts[p].from,
                       work.parts[p].count * sizeof *window);
        convolve(&work, window, count);
        memmove(window, window + (size_t)count * size, (size_t)kept * size * sizeof *window);
        for (int t = 0; t < count; t++) {
            make_length_one(mixed + (size_t)t * size, dim);
            make_length_one(mixed + (size_t)t * size + dim, dim);
        }
        for (int h = 0; h < heads; h++) {
            int head = key_head * heads + h;
            float *state = step->states + (slot * step->heads + head) * dim * width;
            float *out = step->out + (((size_t)row * step->width + first) * step->heads + head) * width;
            read_head(&work, head, 2 * dim + h * width, first, count, state, out);
        }
    }
    copy_tail(&work, tail, window, 1);
}
