/* Products of weights that are no whole numbers: a piece of LANES outputs at a time becomes floats, transposed, so
 * that no sum crosses lanes and all rows of inputs take from it. */

#define PIECE 128      /* inputs whose weights are floats at a time */
#define PIECE_ROWS 256 /* whose sums are kept meanwhile */
#define VALUE_ROWS 6   /* whose sums are in registers */

/* [inputs][outputs] */
typedef struct Piece {
    float at[PIECE][LANES];
} Piece;

INLINE Row row_at(const Work *work, int out) {
    Row row = work->first;
    for (int part = 0; part < MAX_PARTS; part++)
        if (row.parts[part]) row.parts[part] += out * work->strides[part];
    return row;
}

/* Columns to rows. */
static void turn(const float (*from)[PIECE], int count, Piece *to) {
#ifdef HAS_AVX2
    for (int lane = 0; lane < LANES; lane += 8)
        for (int at = 0; at < count; at += 8) {
            Ints8 v[8];
            UNROLL for (int i = 0; i < 8; i++) v[i] = LOAD(Ints8, &from[lane + i][at]);
            transpose(v);
            UNROLL for (int i = 0; i < 8; i++) STORE(Ints8, v[i], &to->at[at + i][lane]);
        }
#elif defined(HAS_NEON)
    for (int at = 0; at < count; at += 4) {
        int32x4_t v[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] = LOAD(int32x4_t, &from[i][at]);
        transpose_four(v);
        UNROLL for (int i = 0; i < 4; i++) STORE(int32x4_t, v[i], to->at[at + i]);
    }
#else
    for (int at = 0; at < count; at++)
        for (int lane = 0; lane < LANES; lane++) to->at[at][lane] = from[lane][at];
#endif
}

static void load_piece(const Work *work, int out, int at, int count, Piece *to) {
    float values[LANES][PIECE];
    for (int lane = 0; lane < LANES; lane++) {
        const Row row = row_at(work, out + lane < work->outs ? out + lane : out);
        work->format->dequantize(&row, at, count, values[lane]);
    }
    turn((const float(*)[PIECE])values, count, to);
}

INLINE void add_piece(const Piece *of, const float *const *x, int at, int count, const int rows, Floats *sums) {
    Floats sum[VALUE_ROWS];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = sums[r];
    for (int i = 0; i < count; i++) {
        const Floats values = load_floats(of->at[i]);
        UNROLL for (int r = 0; r < rows; r++) sum[r] += values * x[r][at + i];
    }
    UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

static void add_pieces(const Piece *of, const float *const *x, int at, int count, int rows, Floats *sums) {
    for (; rows >= VALUE_ROWS; rows -= VALUE_ROWS, x += VALUE_ROWS, sums += VALUE_ROWS)
        add_piece(of, x, at, count, VALUE_ROWS, sums);
    if (rows & 4) add_piece(of, x, at, count, 4, sums);
    x += rows & 4, sums += rows & 4;
    if (rows & 2) add_piece(of, x, at, count, 2, sums);
    x += rows & 2, sums += rows & 2;
    if (rows & 1) add_piece(of, x, at, count, 1, sums);
}

static void multiply_values(const Work *work) {
    Piece piece;
    const float *x[PIECE_ROWS];
    Floats sums[PIECE_ROWS];
    for (int row = 0; row < work->rows; row += PIECE_ROWS) {
        const int rows = work->rows - row < PIECE_ROWS ? work->rows - row : PIECE_ROWS;
        for (int r = 0; r < rows; r++) x[r] = (const float *)(work->x + (row + r) * work->x_stride);
        for (int out = 0; out < work->outs; out += LANES) {
            const int outs = work->outs - out < LANES ? work->outs - out : LANES;
            memset(sums, 0, rows * sizeof *sums);
            for (int at = 0; at < work->first.ins; at += PIECE) {
                const int count = work->first.ins - at < PIECE ? work->first.ins - at : PIECE;
                load_piece(work, out, at, count, &piece);
                add_pieces(&piece, x, at, count, rows, sums);
            }
            for (int r = 0; r < rows; r++) {
                float *y = work->y + (row + r) * work->y_stride + out;
                for (int o = 0; o < outs; o++) y[o] = sums[r][o] + (work->bias ? work->bias[out + o] : 0);
            }
        }
    }
}
