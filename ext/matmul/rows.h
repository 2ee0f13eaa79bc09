/* Norms, rotations, sums, and writes to the cache: see `row_steps.h`. */

INLINE void scale_row(const float *x, const float *weight, int dim, float scale, float *out) {
    int d = 0;
    for (; d + LANES <= dim; d += LANES)
        *(AnyFloats *)(out + d) = load_floats(x + d) * scale * load_floats(weight + d);
    for (; d < dim; d++) out[d] = x[d] * scale * weight[d];
}

static void norm_row(const float *x, const float *weight, int dim, float eps, float *out) {
    scale_row(x, weight, dim, 1 / sqrtf(product_of(x, x, dim) / (float)dim + eps), out);
}

/* Rotate the halves of a vector with each other. */
INLINE void rotate(float *x, const float *cosines, const float *sines, int dim) {
    const int half = dim / 2;
    int d = 0;
    for (; d + LANES <= half; d += LANES) {
        Floats one = load_floats(x + d), other = load_floats(x + half + d);
        *(AnyFloats *)(x + d) = one * load_floats(cosines + d) + other * load_floats(sines + d);
        *(AnyFloats *)(x + half + d) = other * load_floats(cosines + half + d) + one * load_floats(sines + half + d);
    }
    for (; d < half; d++) {
        float one = x[d], other = x[half + d];
        x[d] = one * cosines[d] + other * sines[d];
        x[half + d] = other * cosines[half + d] + one * sines[half + d];
    }
}

static void rotate_row(const RotateStep *step, int row) {
    const int dim = step->dim;
    float *x = step->x + row * step->stride;
    for (int head = 0; head < step->heads; head++, x += dim) {
        if (step->norm) norm_row(x, step->norm + (size_t)head * dim, dim, step->eps, x);
        if (step->cos) rotate(x, step->cos + (size_t)row * step->rotated, step->sin + (size_t)row * step->rotated, step->rotated);
        if (step->stored == STORED_BFLOATS) for (int d = 0; d < dim; d++) x[d] = float_of_bits((uint32_t)bfloat_of(x[d]) << 16);
    }
}

static void store_row(const StoreStep *step, int row) {
    const float *x = step->x + row * step->stride;
    const size_t place = (size_t)step->places[row] * step->dim;
    if (step->stored == STORED_FLOATS) {
        memcpy((float *)step->pool + place, x, step->dim * sizeof *x);
        return;
    }
    uint16_t *to = (uint16_t *)step->pool + place;
    for (int d = 0; d < step->dim; d++) to[d] = bfloat_of(x[d]);
}

static void sigmoid_gate(const float *gate, int count, float *x) {
    int at = 0;
    for (; at + LANES <= count; at += LANES)
        *(AnyFloats *)(x + at) = load_floats(x + at) * sigmoid_of(load_floats(gate + at));
    for (; at < count; at++) x[at] /= 1.0f + expf(-gate[at]);
}

/* The oldest of a tail moves out, the token in. */
INLINE void convolve_stored(const ConvolutionStep *step, int row, const Stored stored) {
    const int dim = step->dim, last = step->kernel - 1;
    const float *before = step->inputs + (size_t)row * 3 * dim, *after = before + dim, *x = after + dim;
    const size_t bytes = stored == STORED_FLOATS ? 4 : 2;
    uint8_t *tail = step->tails + (size_t)step->slots[row] * last * dim * bytes;
    float *out = step->out + (size_t)row * dim;
    for (int d = 0; d < dim; d++)
        out[d] = before[d] * x[d] * step->weights[(size_t)last * dim + d] + (step->bias ? step->bias[d] : 0);
    for (int i = 0; i < last; i++) for (int d = 0; d < dim; d++) {
        const size_t at = (size_t)i * dim + d;
        const uint16_t *half = (const uint16_t *)tail;
        float value = stored == STORED_FLOATS ? ((const float *)tail)[at] : float_of_bits((uint32_t)half[at] << 16);
        out[d] += value * step->weights[at];
    }
    for (int d = 0; d < dim; d++) out[d] *= after[d];
    if (!last) return;
    uint8_t *end = tail + (size_t)(last - 1) * dim * bytes;
    memmove(tail, tail + dim * bytes, end - tail);
    for (int d = 0; d < dim; d++) {
        if (stored == STORED_FLOATS) ((float *)end)[d] = before[d] * x[d];
        else ((uint16_t *)end)[d] = bfloat_of(before[d] * x[d]);
    }
}

static void convolve_row(const ConvolutionStep *step, int row) {
    if (step->stored == STORED_FLOATS) convolve_stored(step, row, STORED_FLOATS);
    else convolve_stored(step, row, STORED_BFLOATS);
}

INLINE float within(float x, float least, float most) { return x < least ? least : x > most ? most : x; }

static void clamped_gate(const ClampedGateStep *step, int row) {
    const int width = step->width;
    const float limit = step->limit, *x = step->gate_up + (size_t)row * 2 * width;
    float *out = step->out + (size_t)row * width;
    for (int at = 0; at < width; at += LANES) {
        const int count = width - at < LANES ? width - at : LANES;
        float gates[LANES] = {0}, ups[LANES] = {0};
        for (int i = 0; i < count; i++) {
            gates[i] = within(x[2 * (at + i)], -INFINITY, limit);
            ups[i] = within(x[2 * (at + i) + 1], -limit, limit) + 1;
        }
        Floats gate = load_floats(gates), value = gate * load_floats(ups) * sigmoid_of(gate * step->alpha);
        memcpy(out + at, &value, count * sizeof *out);
    }
}

/* x * sigmoid(2u) is x / 2 * (1 + tanh(u)). */
INLINE Floats gelu_of(Floats x) { return x * sigmoid_of((x + x * x * x * 0.044715f) * 1.5957691216f); }

INLINE void gelu_stored(const GeluStep *step, int64_t first, int count, const Stored stored) {
    const int item_bytes = stored == STORED_FLOATS ? 4 : 2;
    const uint8_t *x = step->x + first * item_bytes;
    uint8_t *out = step->out + first * item_bytes;
    int at = 0;
    for (; at + LANES <= count; at += LANES) {
        const Floats value = gelu_of(load_stored(x, at, stored));
        if (stored == STORED_FLOATS) *(AnyFloats *)(out + at * 4) = value;
        else store_bfloats(value, (uint16_t *)out + at);
    }
    uint8_t rest[LANES * 4] = {0};
    memcpy(rest, x + at * item_bytes, (count - at) * item_bytes);
    const Floats value = gelu_of(load_stored(rest, 0, stored));
    if (stored == STORED_FLOATS) memcpy(rest, &value, sizeof value);
    else store_bfloats(value, (uint16_t *)rest);
    memcpy(out + at * item_bytes, rest, (count - at) * item_bytes);
}

static void gelu_piece(const GeluStep *step, int64_t first, int count) {
    if (step->stored == STORED_FLOATS) gelu_stored(step, first, count, STORED_FLOATS);
    else gelu_stored(step, first, count, STORED_BFLOATS);
}

/* The place of the largest number, the first of several; -1 if any is NaN. */
static int64_t place_of_largest(const float *x, int count) {
    Floats most = (Floats){0} - INFINITY;
    Integers at = {0}, found, bad = {0};
    for (int i = 0; i < LANES; i++) at[i] = i;
    found = at;
    int i = 0;
    for (; i + LANES <= count; i += LANES, at += LANES) {
        Floats values = load_floats(x + i);
        Integers more = values > most;
        bad |= values != values;
        most = (Floats)((more & (Integers)values) | (~more & (Integers)most));
        found = (more & at) | (~more & found);
    }
    float best = -INFINITY;
    int64_t place = 0;
    for (int lane = 0; lane < LANES && lane < i; lane++) {
        if (bad[lane]) return -1;
        if (most[lane] > best || (most[lane] == best && found[lane] < place)) best = most[lane], place = found[lane];
    }
    for (; i < count; i++) {
        if (x[i] != x[i]) return -1;
        if (x[i] > best) best = x[i], place = i;
    }
    return place;
}
