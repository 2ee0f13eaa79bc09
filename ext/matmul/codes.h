/* Products of weights that are whole numbers with scales, by inputs that are rounded to such.
 *
 * CODE_OUTS rows of weights at a time are unpacked, and stay in the nearest cache while all inputs pass by. */

#define CODE_STEP (4 * LANES) /* inputs that one vector holds; each lane has four of them */

INLINE Codes codes_at(uint8_t *scratch, int ins, int number) {
    size_t size = padded(ins);
    uint8_t *at = scratch + number * (size + size / 2);
    return (Codes){(int8_t *)at, (float *)(at + size), (float *)(at + size + size / 4)};
}

/* Of either unpacked codes or as many floats. */
static size_t scratch_bytes(int ins) {
    size_t codes = CODE_OUTS * (size_t)(padded(ins) + padded(ins) / 2);
    size_t floats = DOT_OUTS * (size_t)ins * sizeof(float);
    return codes > floats ? codes : floats;
}

/* What a format leaves of the padding is zero: it meets inputs that are zero, but must be no NaN. */
INLINE void unpack_row(const Work *work, int out, Codes to) {
    Row row = work->first;
    for (int part = 0; part < MAX_PARTS; part++) row.parts[part] += out * work->strides[part];
    const int ins = row.ins, size = padded(ins);
    memset(to.codes + ins, 0, size - ins);
    memset(to.scales + ins / GROUP, 0, (size - ins) / GROUP * sizeof(float));
    if (work->format->has_mins) memset(to.mins + ins / GROUP, 0, (size - ins) / GROUP * sizeof(float));
    work->format->unpack(&row, to);
}

INLINE void tile_codes(const Work *work, int row, int out, const int rows, const int outs) {
    const int size = padded(work->first.ins);
    CodedInput x[CODE_ROWS];
    Codes w[CODE_OUTS];
    Floats sums[CODE_ROWS][CODE_OUTS];
    UNROLL for (int r = 0; r < rows; r++)
        x[r] = coded_input((uint8_t *)work->x + (size_t)(row + r) * work->x_stride, work->first.ins);
    UNROLL for (int o = 0; o < outs; o++) w[o] = codes_at(work->scratch, work->first.ins, o);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++) sums[r][o] = (Floats){0};
    for (int at = 0; at < size; at += CODE_STEP) {
        CodeVector weights[CODE_OUTS];
        Floats scales[CODE_OUTS];
        UNROLL for (int o = 0; o < outs; o++) {
            weights[o] = load_weight_codes(w[o].codes + at);
            scales[o] = spread_groups(w[o].scales + at / GROUP);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            CodeVector inputs = load_input_codes(x[r].codes + at);
            Floats scale = spread_blocks(x[r].scales + at / BLOCK);
            UNROLL for (int o = 0; o < outs; o++)
                sums[r][o] += dot_codes(weights[o], inputs, x[r].offsets + at / 4) * (scales[o] * scale);
        }
    }
    if (work->format->has_mins)
        UNROLL for (int r = 0; r < rows; r++)
            for (int at = 0; at < size / GROUP; at += LANES) UNROLL for (int o = 0; o < outs; o++)
                sums[r][o] -= load_floats(w[o].mins + at) * load_floats(x[r].sums + at);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outs; o++)
        work->y[(size_t)(row + r) * work->y_stride + out + o] =
            sum(sums[r][o]) + (work->bias ? work->bias[out + o] : 0);
}

static void multiply_codes(const Work *work) {
    int out = 0;
    for (; out + CODE_OUTS <= work->outs; out += CODE_OUTS) {
        for (int o = 0; o < CODE_OUTS; o++) unpack_row(work, out + o, codes_at(work->scratch, work->first.ins, o));
        int row = 0;
        for (; row + CODE_ROWS <= work->rows; row += CODE_ROWS) tile_codes(work, row, out, CODE_ROWS, CODE_OUTS);
        for (; row < work->rows; row++) tile_codes(work, row, out, 1, CODE_OUTS);
    }
    for (; out < work->outs; out++) {
        unpack_row(work, out, codes_at(work->scratch, work->first.ins, 0));
        for (int row = 0; row < work->rows; row++) tile_codes(work, row, out, 1, 1);
    }
}
