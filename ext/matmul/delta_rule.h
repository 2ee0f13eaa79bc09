/* One token of the gated delta rule: see `delta_step.h`. */

#define COLUMNS (4 * LANES) /* of a state that are read at once */

/* What key and query find in some columns of a state; then the state decays, and learns the change. */
INLINE void delta_columns(const DeltaHead *head, int from, const int vectors, float decay, float strength, float alike) {
    Floats by_key[4], by_query[4], change[4];
    UNROLL for (int i = 0; i < vectors; i++) by_key[i] = by_query[i] = (Floats){0};
    for (int row = 0; row < head->key_dim; row++) {
        const float *state = head->state + (size_t)row * head->value_dim + from;
        UNROLL for (int i = 0; i < vectors; i++) {
            Floats values = load_floats(state + i * LANES);
            by_key[i] += values * head->key[row];
            by_query[i] += values * head->query[row];
        }
    }
    UNROLL for (int i = 0; i < vectors; i++) {
        change[i] = (load_floats(head->value + from + i * LANES) - by_key[i] * decay) * strength;
        *(AnyFloats *)(head->out + from + i * LANES) = by_query[i] * decay + change[i] * alike;
    }
    for (int row = 0; row < head->key_dim; row++) {
        float *state = head->state + (size_t)row * head->value_dim + from;
        UNROLL for (int i = 0; i < vectors; i++)
            *(AnyFloats *)(state + i * LANES) = load_floats(state + i * LANES) * decay + change[i] * head->key[row];
    }
}

static void delta_column(const DeltaHead *head, int column, float decay, float strength, float alike) {
    float by_key = 0, by_query = 0;
    for (int row = 0; row < head->key_dim; row++) {
        float value = head->state[(size_t)row * head->value_dim + column];
        by_key += value * head->key[row];
        by_query += value * head->query[row];
    }
    float change = (head->value[column] - by_key * decay) * strength;
    head->out[column] = by_query * decay + change * alike;
    for (int row = 0; row < head->key_dim; row++) {
        float *value = head->state + (size_t)row * head->value_dim + column;
        *value = *value * decay + change * head->key[row];
    }
}

static void delta_head(const DeltaHead *head) {
    float decay = expf(head->log_decay), alike = 0;
    for (int row = 0; row < head->key_dim; row++) alike += head->key[row] * head->query[row];
    int column = 0;
    for (; column + COLUMNS <= head->value_dim; column += COLUMNS)
        delta_columns(head, column, 4, decay, head->strength, alike);
    for (; column + LANES <= head->value_dim; column += LANES)
        delta_columns(head, column, 1, decay, head->strength, alike);
    for (; column < head->value_dim; column++) delta_column(head, column, decay, head->strength, alike);
}
