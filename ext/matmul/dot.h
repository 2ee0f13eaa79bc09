/* Products of numbers as they are stored, by dot products of rows: a template.
 *
 * `multiply_KIND` is the product and TILE its inner part; WEIGHT and INPUT are the types of what is stored and
 * multiplied, STEP as many of each as LOAD_WEIGHTS and LOAD_INPUTS read, and MULTIPLY_ADD adds their products to
 * `Floats`. Inputs are floats unless INPUT says otherwise, with all that is below it.
 * A tile of DOT_ROWS by DOT_OUTS keeps its sums in registers, so that each load serves several products. */
#ifndef INPUT
#define INPUT float
#define STORED Floats
#define TAKEN Floats
#define STEP LANES
#define LOAD_INPUTS load_floats
#define MULTIPLY_ADD(sum, weights, inputs) ((sum) + (weights) * (inputs))
#endif

#define JOINED(name, kind) name##_##kind
#define NAMED(name, kind) JOINED(name, kind)
#define DOT NAMED(multiply, KIND)
#define TILE NAMED(tile, KIND)
#define LINES NAMED(lines, KIND)
#define FEW NAMED(few, KIND)
#define KEEP NAMED(keep, KIND)
#define REST NAMED(rest, KIND)
#define WEIGHTS NAMED(weights, KIND)

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

/* Few rows of inputs: those of weights one after the other, as they lie in memory. The CPU knows what is read next:
 * to ask for it as well takes a fifth of the speed. */
INLINE void LINES(const Work *work, int row, int out, const int rows, const int outs) {
    const int chains = rows == 1 ? 4 : 2; /* of sums, as one addition waits for the last */
    const INPUT *x[MAX_LINES];
    UNROLL for (int r = 0; r < rows; r++) x[r] = (const INPUT *)(work->x + (size_t)(row + r) * work->x_stride);
    const int ins = work->first.ins;
    Floats sums[MAX_LINES][DOT_OUTS];
    UNROLL for (int o = 0; o < outs; o++) {
        const WEIGHT *w = WEIGHTS(work, out + o);
        Floats parts[MAX_LINES][4];
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < chains; i++) parts[r][i] = (Floats){0};
        int at = 0;
        for (; at + chains * STEP <= ins; at += chains * STEP) UNROLL for (int i = 0; i < chains; i++) {
            STORED weights = LOAD_WEIGHTS(w + at + i * STEP);
            UNROLL for (int r = 0; r < rows; r++)
                parts[r][i] = MULTIPLY_ADD(parts[r][i], weights, LOAD_INPUTS(x[r] + at + i * STEP));
        }
        for (; at + STEP <= ins; at += STEP)
            UNROLL for (int r = 0; r < rows; r++)
                parts[r][0] = MULTIPLY_ADD(parts[r][0], LOAD_WEIGHTS(w + at), LOAD_INPUTS(x[r] + at));
        UNROLL for (int r = 0; r < rows; r++) {
            if (at < ins) parts[r][0] += REST(w + at, x[r] + at, ins - at);
            UNROLL for (int i = 1; i < chains; i++) parts[r][0] += parts[r][i];
            sums[r][o] = parts[r][0];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) KEEP(work, row + r, out, sums[r], outs);
}

/* What a tile asks the memory for meanwhile: weights of outputs that are far ahead, for the second cache, or those of
 * the next outputs, for the first. One tile after the other does either, so that neither waits for the memory. */
INLINE void TILE(const Work *work, int row, int out, const int rows, const Asked asked) {
    const int outs = DOT_OUTS;
    const size_t tile_bytes = DOT_OUTS * work->strides[0];
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
            if (asked == FAR) __builtin_prefetch((const char *)(w[o] + at) + TILES_AHEAD * tile_bytes, 0, 2);
            if (asked == NEAR) __builtin_prefetch((const char *)(w[o] + at) + tile_bytes);
            STORED weights = LOAD_WEIGHTS(w[o] + at);
            UNROLL for (int r = 0; r < rows; r++) sums[r][o] = MULTIPLY_ADD(sums[r][o], weights, inputs[r]);
        }
    }
    if (at < ins)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++)
            sums[r][o] += REST(w[o] + at, x[r] + at, ins - at);
    UNROLL for (int r = 0; r < rows; r++) KEEP(work, row + r, out, sums[r], outs);
}

/* Of up to MAX_LINES rows memory is the limit, not arithmetic. */
INLINE void FEW(const Work *work, int row, int rows, int out) {
    switch (rows) {
    case 1: LINES(work, row, out, 1, DOT_OUTS); break;
    case 2: LINES(work, row, out, 2, DOT_OUTS); break;
    case 3: LINES(work, row, out, 3, DOT_OUTS); break;
    case 4: LINES(work, row, out, 4, DOT_OUTS); break;
    }
}

static void DOT(const Work *work) {
    const int near = rows_near(work);
    for (int first = 0; first < work->rows; first += near) {
        const int end = work->rows - first < near ? work->rows : first + near;
        int out = 0;
        for (; out + DOT_OUTS <= work->outs; out += DOT_OUTS) {
            if (end - first <= MAX_LINES) {
                FEW(work, first, end - first, out);
                continue;
            }
            int row = first;
            if (row + DOT_ROWS <= end) TILE(work, row, out, DOT_ROWS, FAR), row += DOT_ROWS;
            if (row + DOT_ROWS <= end) TILE(work, row, out, DOT_ROWS, NEAR), row += DOT_ROWS;
            for (; row + DOT_ROWS <= end; row += DOT_ROWS) TILE(work, row, out, DOT_ROWS, NOTHING);
            switch (end - row) {
            case 1: TILE(work, row, out, 1, NOTHING); break;
            case 2: TILE(work, row, out, 2, NOTHING); break;
            case 3: TILE(work, row, out, 3, NOTHING); break;
#if DOT_ROWS > 4
            case 4: TILE(work, row, out, 4, NOTHING); break;
            case 5: TILE(work, row, out, 5, FAR); break; /* the only tile, or one of the last */
#endif
            }
        }
        for (; out < work->outs; out++)
            for (int row = first; row < end; row++) LINES(work, row, out, 1, 1);
    }
}

#undef KIND
#undef JOINED
#undef NAMED
#undef DOT
#undef TILE
#undef LINES
#undef FEW
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
