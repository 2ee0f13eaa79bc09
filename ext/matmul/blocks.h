/* A type of blocks, by NAME: a template. ELEMENTS and BYTES are a block's, RUN the weights that share a scale, BITS
 * those of the largest code, CENTRE the code of 0, or 0 where a block has its own, HALVED whether vectors of 64
 * bytes unpack it so. Of unpack_NAME it makes multiply_NAME
 * and dequantize_NAME. */
#define PASTE_(A, B) A##B
#define PASTE(A, B) PASTE_(A, B)
#if BITS == 8 && !defined(HAS_VNNI)
#define IS_SIGNED 1
#else
#define IS_SIGNED 0
#endif

#if defined(HALVED) && LANES == 16
#define IS_HALVED 1
#else
#define IS_HALVED 0
#endif

/* Add the products of an output. */
INLINE void PASTE(dot_, NAME)(const uint8_t *from, int ins, const CodedInput *x, const int rows,
                              Sums *sums) {
    enum { SIZE = CHUNK / ELEMENTS * BYTES };
    const int left = ins % CHUNK / ELEMENTS * BYTES;
    Chunk of;
    int chunk = 0;
    for (; chunk < ins / CHUNK; chunk++) {
        PASTE(unpack_, NAME)(from + (size_t)chunk * SIZE, &of);
        for (int r = 0; r < rows; r++) add_products(&of, x[r], chunk, sums + r, RUN, IS_SIGNED, IS_HALVED);
    }
    if (!left) return;
    uint8_t last[SIZE] = {0};
    memcpy(last, from + (size_t)chunk * SIZE, left);
    PASTE(unpack_, NAME)(last, &of);
    for (int r = 0; r < rows; r++) add_products(&of, x[r], chunk, sums + r, RUN, IS_SIGNED, IS_HALVED);
}

#ifdef HAS_TILES
static void PASTE(fill_, NAME)(const uint8_t *const *from, Tile *tile, int lane) {
#if TURNED == 16
    (void)lane;
    Floats8 scales[32 / RUN][TURNED], offsets[32 / RUN][TURNED];
    for (int o = 0; o < TURNED; o++) {
        Chunk of; /* its codes are not used, and not unpacked */
        PASTE(unpack_, NAME)(from[o], &of);
        UNROLL for (int i = 0; i < 32 / RUN; i++) scales[i][o] = of.scales[i], offsets[i][o] = of.offsets[i];
    }
    UNROLL for (int i = 0; i < 32 / RUN; i++) {
        turn_eights(scales[i], tile->scales + 8 * i);
        if (!CENTRE) turn_eights(offsets[i], tile->offsets + 8 * i);
    }
    PASTE(turn_, NAME)(from, tile);
    if (IS_SIGNED) flip_codes(tile);
#else
    Chunk chunks[TURNED];
    for (int o = 0; o < TURNED; o++) PASTE(unpack_, NAME)(from[o], chunks + o);
    fill_lanes(chunks, tile, lane, RUN, IS_SIGNED, CENTRE);
#endif
}
#endif

/* From the first weight of a chunk on. */
static void PASTE(dequantize_, NAME)(const Row *row, int at, int count, float *to) {
    enum { SIZE = CHUNK / ELEMENTS * BYTES };
    for (; count > 0; at += CHUNK, count -= CHUNK, to += CHUNK) {
        const uint8_t *from = row->parts[0] + (size_t)(at / ELEMENTS) * BYTES;
        const int some = count < CHUNK ? count : CHUNK;
        uint8_t last[SIZE] = {0};
        if (some < CHUNK) from = memcpy(last, from, some / ELEMENTS * BYTES);
        Chunk of;
        PASTE(unpack_, NAME)(from, &of);
        for (int i = 0; i < some; i++) to[i] = weight_of(&of, i, RUN, CENTRE, IS_HALVED);
    }
}

/* A few rows take from each output's weights, which are unpacked once. */
INLINE void PASTE(pass_, NAME)(const Work *work, int row, const int rows) {
    CodedInput x[DOT_MOST];
    for (int r = 0; r < rows; r++) x[r] = coded_input(work, row + r);
    for (int out = 0; out < work->outs; out++) {
        const uint8_t *from = work->first.parts[0] + out * work->strides[0];
        Sums sums[DOT_MOST] = {0};
        PASTE(dot_, NAME)(from, work->first.ins, x, rows, sums);
        for (int r = 0; r < rows; r++)
            work->y[(row + r) * work->y_stride + out] = total_of(sums + r) + (work->bias ? work->bias[out] : 0);
    }
}

static void PASTE(multiply_, NAME)(const Work *work) {
#ifdef HAS_TILES
    static const Blocks blocks = {ELEMENTS, BYTES, CENTRE, PASTE(fill_, NAME),
                                  PASTE(PASTE(PASTE(add_rows_, RUN), PASTE(_, BITS)), bits)};
    if (work->rows > DOT_MOST) multiply_rows(&blocks, work);
    else if (work->rows == 1) PASTE(pass_, NAME)(work, 0, 1);
    else if (DOT_MOST > 1) PASTE(pass_, NAME)(work, 0, DOT_MOST);
#else
    for (int row = 0; row < work->rows; row += DOT_MOST)
        PASTE(pass_, NAME)(work, row, DOT_MOST < work->rows - row ? DOT_MOST : work->rows - row);
#endif
}

#undef NAME
#undef ELEMENTS
#undef BYTES
#undef RUN
#undef BITS
#undef CENTRE
#undef IS_SIGNED
#undef IS_HALVED
#undef HALVED
