/* Products of numbers as they are stored, by dot products of rows: a template.
 *
 * DOT names the product and TILE its inner part; WEIGHT and INPUT are the types of what is stored and multiplied,
 * STEP as many of each as LOAD_WEIGHTS and LOAD_INPUTS read, and MULTIPLY_ADD adds their products to `Floats`.
 * A tile of DOT_ROWS by DOT_OUTS keeps its sums in registers, so that each load serves several products. */

INLINE const WEIGHT *WEIGHTS(const Work *work, int out) {
    return (const WEIGHT *)(work->first.parts[0] + (size_t)out * work->strides[0]);
}

/* The sum of what a row ends with, with zeros behind it. */
INLINE Floats REST(const WEIGHT *w, const INPUT *x, int count) {
    WEIGHT weights[STEP] = {0};
    INPUT inputs[STEP] = {0};
    memcpy(weights, w, count * sizeof(WEIGHT));
    memcpy(inputs, x, count * sizeof(INPUT));
    return MULTIPLY_ADD((Floats){0}, LOAD_WEIGHTS(weights), LOAD_INPUTS(inputs));
}

INLINE void KEEP(const Work *work, int row, int out, const Floats *sums, const int outs) {
    float *y = work->y + (size_t)row * work->y_stride + out;
    if (outs == DOT_OUTS) {
        FourFloats four = sum_each(sums);
        if (work->bias) four += *(const AnyFour *)(work->bias + out);
        *(AnyFour *)y = four;
    } else {
        UNROLL for (int o = 0; o < outs; o++) y[o] = sum(sums[o]) + (work->bias ? work->bias[out + o] : 0);
    }
}

/* One row of inputs: those of weights one after the other, as they lie in memory. */
INLINE void LINE(const Work *work, int row, int out, const int outs) {
    const INPUT *x = (const INPUT *)(work->x + (size_t)row * work->x_stride);
    const int ins = work->first.ins;
    Floats sums[DOT_OUTS];
    UNROLL for (int o = 0; o < outs; o++) {
        const WEIGHT *w = WEIGHTS(work, out + o);
        Floats parts[4] = {0};
        int at = 0;
        for (; at + 4 * STEP <= ins; at += 4 * STEP) UNROLL for (int i = 0; i < 4; i++) {
            __builtin_prefetch((const char *)(w + at + i * STEP) + AHEAD_BYTES);
            parts[i] = MULTIPLY_ADD(parts[i], LOAD_WEIGHTS(w + at + i * STEP), LOAD_INPUTS(x + at + i * STEP));
        }
        for (; at + STEP <= ins; at += STEP) parts[0] = MULTIPLY_ADD(parts[0], LOAD_WEIGHTS(w + at), LOAD_INPUTS(x + at));
        if (at < ins) parts[1] += REST(w + at, x + at, ins - at);
        sums[o] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    }
    KEEP(work, row, out, sums, outs);
}

/* The first tile of some outputs asks for the next outputs' weights. */
INLINE void TILE(const Work *work, int row, int out, const int rows, const int outs, const int is_first) {
    const INPUT *x[DOT_ROWS];
    const WEIGHT *w[DOT_OUTS];
    Floats sums[DOT_ROWS][DOT_OUTS];
    UNROLL for (int r = 0; r < rows; r++) x[r] = (const INPUT *)(work->x + (size_t)(row + r) * work->x_stride);
    UNROLL for (int o = 0; o < outs; o++) w[o] = WEIGHTS(work, out + o);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++) sums[r][o] = (Floats){0};
    const int ins = work->first.ins;
    int at = 0;
    for (; at + STEP <= ins; at += STEP) {
        TAKEN inputs[DOT_ROWS];
        UNROLL for (int r = 0; r < rows; r++) inputs[r] = LOAD_INPUTS(x[r] + at);
        UNROLL for (int o = 0; o < outs; o++) {
            if (is_first) __builtin_prefetch((const char *)(w[o] + at) + DOT_OUTS * work->strides[0]);
            STORED weights = LOAD_WEIGHTS(w[o] + at);
            UNROLL for (int r = 0; r < rows; r++) sums[r][o] = MULTIPLY_ADD(sums[r][o], weights, inputs[r]);
        }
    }
    if (at < ins)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++)
            sums[r][o] += REST(w[o] + at, x[r] + at, ins - at);
    UNROLL for (int r = 0; r < rows; r++) KEEP(work, row + r, out, sums[r], outs);
}

static void DOT(const Work *work) {
    const int near = rows_near(work);
    for (int first = 0; first < work->rows; first += near) {
        const int end = work->rows - first < near ? work->rows : first + near;
        int out = 0;
        for (; out + DOT_OUTS <= work->outs; out += DOT_OUTS) {
            int row = first;
            if (row + DOT_ROWS <= end) TILE(work, row, out, DOT_ROWS, DOT_OUTS, 1), row += DOT_ROWS;
            for (; row + DOT_ROWS <= end; row += DOT_ROWS) TILE(work, row, out, DOT_ROWS, DOT_OUTS, 0);
            for (; row + 2 <= end; row += 2) TILE(work, row, out, 2, DOT_OUTS, 1);
            if (row < end) LINE(work, row, out, DOT_OUTS);
        }
        for (; out < work->outs; out++)
            for (int row = first; row < end; row++) LINE(work, row, out, 1);
    }
}

#undef DOT
#undef TILE
#undef LINE
#undef KEEP
#undef REST
#undef WEIGHTS
#undef WEIGHT
#undef INPUT
#undef STORED
#undef TAKEN
#undef STEP
#undef LOAD_WEIGHTS
#undef LOAD_INPUTS
#undef MULTIPLY_ADD
