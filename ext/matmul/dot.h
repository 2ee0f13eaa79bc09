/* Products of numbers as they are stored, by dot products of rows: a template.
 *
 * DOT names the product and TILE its inner part; WEIGHT and INPUT are the types of what is stored and multiplied,
 * STEP as many of each as LOAD_WEIGHTS and LOAD_INPUTS read, and MULTIPLY_ADD adds their products to `Floats`.
 * A tile of DOT_ROWS by DOT_OUTS keeps its sums in registers, so that each load serves several products. */

INLINE void TILE(const Work *work, int row, int out, const int rows, const int outs) {
    const INPUT *x[DOT_ROWS];
    const WEIGHT *w[DOT_OUTS];
    Floats sums[DOT_ROWS][DOT_OUTS];
    UNROLL for (int r = 0; r < rows; r++) x[r] = (const INPUT *)(work->x + (size_t)(row + r) * work->x_stride);
    UNROLL for (int o = 0; o < outs; o++)
        w[o] = (const WEIGHT *)(work->first.parts[0] + (size_t)(out + o) * work->strides[0]);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++) sums[r][o] = (Floats){0};
    const int ins = work->first.ins;
    int at = 0;
    for (; at + STEP <= ins; at += STEP) {
        STORED weights[DOT_OUTS];
        UNROLL for (int o = 0; o < outs; o++) weights[o] = LOAD_WEIGHTS(w[o] + at);
        UNROLL for (int r = 0; r < rows; r++) {
            TAKEN inputs = LOAD_INPUTS(x[r] + at);
            UNROLL for (int o = 0; o < outs; o++) sums[r][o] = MULTIPLY_ADD(sums[r][o], weights[o], inputs);
        }
    }
    if (at < ins) { /* what is left, with zeros behind it */
        WEIGHT last_weights[DOT_OUTS][STEP] = {0};
        UNROLL for (int o = 0; o < outs; o++) memcpy(last_weights[o], w[o] + at, (ins - at) * sizeof(WEIGHT));
        UNROLL for (int r = 0; r < rows; r++) {
            INPUT last_inputs[STEP] = {0};
            memcpy(last_inputs, x[r] + at, (ins - at) * sizeof(INPUT));
            TAKEN inputs = LOAD_INPUTS(last_inputs);
            UNROLL for (int o = 0; o < outs; o++)
                sums[r][o] = MULTIPLY_ADD(sums[r][o], LOAD_WEIGHTS(last_weights[o]), inputs);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++)
        work->y[(size_t)(row + r) * work->y_stride + out + o] =
            sum(sums[r][o]) + (work->bias ? work->bias[out + o] : 0);
}

static void DOT(const Work *work) {
    int out = 0;
    for (; out + DOT_OUTS <= work->outs; out += DOT_OUTS) {
        int row = 0;
        for (; row + DOT_ROWS <= work->rows; row += DOT_ROWS) TILE(work, row, out, DOT_ROWS, DOT_OUTS);
        for (; row < work->rows; row++) TILE(work, row, out, 1, DOT_OUTS);
    }
    for (; out < work->outs; out++)
        for (int row = 0; row < work->rows; row++) TILE(work, row, out, 1, 1);
}

#undef DOT
#undef TILE
#undef WEIGHT
#undef INPUT
#undef STORED
#undef TAKEN
#undef STEP
#undef LOAD_WEIGHTS
#undef LOAD_INPUTS
#undef MULTIPLY_ADD
