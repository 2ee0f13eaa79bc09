/* A type of blocks, by NAME: a template. ELEMENTS and BYTES are a block's, RUN the weights that share a scale, BITS
 * those of the largest code. Of unpack_NAME it makes multiply_NAME. */
#ifdef HAS_AVX2
#define DOT_MOST 1 /* rows for which an output's weights are unpacked once */
#else
#define DOT_MOST 64
#endif
#define PASTE_(A, B) A##B
#define PASTE(A, B) PASTE_(A, B)
#if BITS == 8 && !defined(HAS_VNNI)
#define IS_SIGNED 1
#else
#define IS_SIGNED 0
#endif

/* Add the products of an output. */
INLINE void PASTE(dot_, NAME)(const uint8_t *from, int ins, const CodedInput *x, const int rows,
                              Floats8 (*sums)[3]) {
    enum { SIZE = CHUNK / ELEMENTS * BYTES };
    const int left = ins % CHUNK / ELEMENTS * BYTES;
    Chunk of;
    int chunk = 0;
    for (; chunk < ins / CHUNK; chunk++) {
        PASTE(unpack_, NAME)(from + (size_t)chunk * SIZE, &of);
        for (int r = 0; r < rows; r++) add_products(&of, x[r], chunk, sums[r], RUN, IS_SIGNED);
    }
    if (!left) return;
    uint8_t last[SIZE] = {0};
    memcpy(last, from + (size_t)chunk * SIZE, left);
    PASTE(unpack_, NAME)(last, &of);
    for (int r = 0; r < rows; r++) add_products(&of, x[r], chunk, sums[r], RUN, IS_SIGNED);
}

#ifdef HAS_AVX2
static void PASTE(unpack_eight_, NAME)(const uint8_t *const *from, Chunk *to) {
    for (int o = 0; o < 8; o++) PASTE(unpack_, NAME)(from[o], to + o);
}
#endif

static void PASTE(multiply_, NAME)(const Work *work) {
#ifdef HAS_AVX2
    static const Blocks blocks = {ELEMENTS, BYTES, RUN, IS_SIGNED, PASTE(unpack_eight_, NAME),
                                  PASTE(PASTE(PASTE(add_rows_, RUN), PASTE(_, BITS)), bits)};
    if (work->rows > 1) {
        multiply_rows(&blocks, work);
        return;
    }
#endif
    for (int row = 0; row < work->rows; row += DOT_MOST) {
        const int rows = DOT_MOST < work->rows - row ? DOT_MOST : work->rows - row;
        CodedInput x[DOT_MOST];
        for (int r = 0; r < rows; r++) x[r] = coded_input(work->x + (row + r) * work->x_stride, work->first.ins);
        for (int out = 0; out < work->outs; out++) {
            const uint8_t *from = work->first.parts[0] + out * work->strides[0];
            Floats8 sums[DOT_MOST][3] = {0};
            PASTE(dot_, NAME)(from, work->first.ins, x, DOT_MOST == 1 ? 1 : rows, sums);
            for (int r = 0; r < rows; r++)
                work->y[(row + r) * work->y_stride + out] =
                    total(sums[r][0] + sums[r][1] + sums[r][2]) + (work->bias ? work->bias[out] : 0);
        }
    }
}

#undef NAME
#undef ELEMENTS
#undef BYTES
#undef RUN
#undef BITS
#undef IS_SIGNED
#undef DOT_MOST
