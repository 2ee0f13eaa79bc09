/* Choices of experts, and sums of what they make: see `experts_step.h`. */

INLINE int is_more(float x, float than) { return x > than || (x != x && than == than); }

/* The places of the largest numbers, in their order; the first of several. */
static void find_largest(const float *x, int count, int wanted, int64_t *places) {
    int found = 0;
    for (int i = 0; i < count; i++) {
        if (found == wanted && !is_more(x[i], x[places[found - 1]])) continue;
        int at = found < wanted ? found++ : wanted - 1;
        for (; at && is_more(x[i], x[places[at - 1]]); at--) places[at] = places[at - 1];
        places[at] = i;
    }
}

INLINE float largest_of(const float *x, int count) {
    float most = -INFINITY;
    for (int i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* `x` has room for whole vectors. */
static void softmax(float *x, int count) {
    const float most = largest_of(x, count);
    Floats sums = {0};
    for (int i = count; i % LANES; i++) x[i] = -INFINITY;
    for (int i = 0; i < count; i += LANES) {
        Floats power = exp_of(load_floats(x + i) - most);
        *(AnyFloats *)(x + i) = power;
        sums += power;
    }
    const float total = sum(sums);
    for (int i = 0; i < count; i++) x[i] /= total;
}

static void sigmoids(float *x, int count) {
    for (int i = count; i % LANES; i++) x[i] = 0;
    for (int i = 0; i < count; i += LANES) *(AnyFloats *)(x + i) = sigmoid_of(load_floats(x + i));
}

/* Leave out all groups but the best. */
static void keep_groups(const ChoiceStep *step, float *compared) {
    const int size = step->experts / step->groups;
    float totals[MOST_EXPERTS];
    int64_t places[MOST_EXPERTS];
    int is_kept[MOST_EXPERTS] = {0};
    for (int group = 0; group < step->groups; group++) {
        find_largest(compared + group * size, size, step->best, places);
        totals[group] = 0;
        for (int i = 0; i < step->best; i++) totals[group] += compared[group * size + places[i]];
    }
    find_largest(totals, step->groups, step->kept, places);
    for (int i = 0; i < step->kept; i++) is_kept[places[i]] = 1;
    for (int i = 0; i < step->experts; i++)
        if (!is_kept[i / size]) compared[i] = -INFINITY;
}

static void weigh(const ChoiceStep *step, float *weights) {
    float total = step->eps;
    for (int i = 0; i < step->chosen; i++) total += weights[i];
    const float factor = step->is_normed ? step->factor / total : step->factor;
    for (int i = 0; i < step->chosen; i++) weights[i] *= factor;
}

static void choose_experts(const ChoiceStep *step, int row) {
    const int experts = step->experts, chosen = step->chosen;
    int64_t *places = step->places + (size_t)row * chosen;
    float scores[MOST_EXPERTS + LANES], compared[MOST_EXPERTS], weights[MOST_EXPERTS + LANES];
    memcpy(scores, step->logits + (size_t)row * experts, experts * sizeof *scores);
    if (step->scores == SOFTMAX_OF_ALL) softmax(scores, experts);
    if (step->scores == SIGMOIDS) sigmoids(scores, experts);
    for (int i = 0; i < experts; i++) compared[i] = scores[i] + (step->bias ? step->bias[i] : 0);
    if (step->kept < step->groups) keep_groups(step, compared);
    find_largest(compared, experts, chosen, places);
    for (int i = 0; i < chosen; i++) weights[i] = scores[places[i]];
    if (step->scores == SOFTMAX_OF_CHOSEN) softmax(weights, chosen);
    weigh(step, weights);
    memcpy(step->weights + (size_t)row * chosen, weights, chosen * sizeof *weights);
}

static void gather_row(const GatherStep *step, int row) {
    const size_t dim = step->dim, from = step->sources[row] * dim;
    float *out = step->out + row * dim;
    if (step->stored == STORED_FLOATS) {
        memcpy(out, (const float *)step->x + from, dim * sizeof *out);
        return;
    }
    const uint8_t *x = step->x + from * 2;
    size_t d = 0;
    for (; d + LANES <= dim; d += LANES) *(AnyFloats *)(out + d) = load_stored(x, (int)d, step->stored);
    if (d == dim) return;
    uint32_t rest[LANES] = {0};
    memcpy(rest, x + d * 2, (dim - d) * 2);
    Floats last = load_stored((const uint8_t *)rest, 0, step->stored);
    memcpy(out + d, &last, (dim - d) * sizeof *out);
}

static void unpack_row(const UnpackStep *step, int row) {
    const Format *format = &formats[step->format];
    const size_t row_bytes = (size_t)(step->dim / format->elements) * format->bytes;
    const Row from = {.parts = {step->blocks + step->sources[row] * row_bytes}, .ins = step->dim};
    float *out = step->out + (size_t)row * step->dim;
    format->dequantize(&from, 0, step->dim, out);
    if (step->rounded == STORED_BFLOATS)
        for (int d = 0; d < step->dim; d++) out[d] = float_of_bits((uint32_t)bfloat_of(out[d]) << 16);
}

static void sum_rows(const SumStep *step, int row) {
    const size_t dim = step->dim;
    const int chosen = step->chosen;
    const int64_t *spots = step->spots + (size_t)row * chosen;
    const float *weights = step->weights + (size_t)row * chosen;
    float *out = step->out + row * dim;
    size_t d = 0;
    for (; d + LANES <= dim; d += LANES) {
        Floats total = {0};
        for (int i = 0; i < chosen; i++)
            if (spots[i] >= 0) total += load_floats(step->x + spots[i] * dim + d) * weights[i];
        *(AnyFloats *)(out + d) = total;
    }
    for (; d < dim; d++) {
        out[d] = 0;
        for (int i = 0; i < chosen; i++)
            if (spots[i] >= 0) out[d] += step->x[spots[i] * dim + d] * weights[i];
    }
}
