/* Products of blocks by two rows and more: the codes of as many outputs as there are lanes are transposed, so that
 * no sum crosses lanes, and all rows take from the same tile. */
#ifdef HAS_AVX2

#ifdef HAS_VNNI
#define TILE_OUTS 16
#else
#define TILE_OUTS 8
#endif
#define TILE_ROWS 256       /* whose sums are kept at a time */
#define ROWS_AT_ONCE 4      /* whose sums are in registers */
#define MAX_CHUNK_BYTES 272 /* q8_0's */

typedef int32_t TileInts __attribute__((vector_size(4 * TILE_OUTS)));
typedef float TileFloats __attribute__((vector_size(4 * TILE_OUTS)));

typedef struct Tile {
    uint8_t codes[CHUNK / 4][TILE_OUTS][4];
    float scales[16][TILE_OUTS], offsets[16][TILE_OUTS];
} Tile;

/* A type of blocks. */
typedef struct Blocks {
    int elements, bytes;
    int run, is_signed; /* as in `add_products` */
    void (*unpack)(const uint8_t *const *from, Chunk *to); /* eight chunks */
    void (*add_rows)(const Tile *tile, const CodedInput *x, int chunk, int rows, TileFloats *sums);
} Blocks;

INLINE int chunk_bytes(const Blocks *of) { return CHUNK / of->elements * of->bytes; }

/* Turn eight by eight numbers. */
INLINE void transpose(Ints8 v[8]) {
    Ints8 a[8], b[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        a[i] = SHUFFLE(Ints8, v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        a[i + 1] = SHUFFLE(Ints8, v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL for (int i = 0; i < 8; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        b[i + 2 * j] = SHUFFLE(Ints8, a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        b[i + 2 * j + 1] = SHUFFLE(Ints8, a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        v[i] = SHUFFLE(Ints8, b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = SHUFFLE(Ints8, b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

INLINE void transpose_into(float (*to)[TILE_OUTS], const Ints8 *from, size_t stride) {
    Ints8 v[8];
    UNROLL for (int i = 0; i < 8; i++) v[i] = LOAD(Ints8, (const uint8_t *)from + i * stride);
    transpose(v);
    UNROLL for (int i = 0; i < 8; i++) STORE(Ints8, v[i], to[i]);
}

/* Fill eight lanes of a tile. */
static void fill_tile(const Blocks *of, const uint8_t *const *from, Tile *tile, int lane) {
    Chunk chunks[8];
    of->unpack(from, chunks);
    for (int i = 0; i < 8; i++) {
        if (of->is_signed)
            for (int o = 0; o < 8; o++) chunks[o].codes[i] ^= 128;
        transpose_into((float(*)[TILE_OUTS])&tile->codes[8 * i][lane], (Ints8 *)&chunks[0].codes[i], sizeof(Chunk));
    }
    for (int i = 0; i < 32 / of->run; i++) {
        float(*scales)[TILE_OUTS] = (float(*)[TILE_OUTS])&tile->scales[8 * i][lane];
        float(*offsets)[TILE_OUTS] = (float(*)[TILE_OUTS])&tile->offsets[8 * i][lane];
        transpose_into(scales, (Ints8 *)&chunks[0].scales[i], sizeof(Chunk));
        if (!of->is_signed) transpose_into(offsets, (Ints8 *)&chunks[0].offsets[i], sizeof(Chunk));
    }
}

/* Unpack a chunk of `outs` outputs. What is missing of the last chunk is zero, as its inputs are. */
static void load_tile(const Blocks *of, const Work *work, int out, int chunk, Tile *tile) {
    const int size = chunk_bytes(of), outs = work->outs - out;
    const int left = work->first.ins / of->elements * of->bytes - chunk * size;
    uint8_t last[8][MAX_CHUNK_BYTES];
    for (int lane = 0; lane < TILE_OUTS; lane += 8) {
        const uint8_t *from[8];
        for (int o = 0; o < 8; o++) {
            const int source = out + (lane + o < outs ? lane + o : 0);
            from[o] = work->first.parts[0] + source * work->strides[0] + (size_t)chunk * size;
            if (left >= size) continue;
            memset(last[o], 0, sizeof last[o]);
            from[o] = memcpy(last[o], from[o], left);
        }
        fill_tile(of, from, tile, lane);
    }
}

/* Add `count` times the products of four codes of each output, by the same inputs for all. */
INLINE TileInts dot_lanes(TileInts sums, const uint8_t *codes, const int8_t *x, const int count,
                          const int is_signed) {
#ifdef HAS_VNNI
    (void)is_signed;
    UNROLL for (int i = 0; i < count; i++) {
        __m512i inputs = _mm512_set1_epi32(LOAD(int32_t, x + 4 * i));
        sums = (TileInts)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(codes + 64 * i), inputs);
    }
    return sums;
#else
    if (is_signed) {
        UNROLL for (int i = 0; i < count; i++) {
            SignedBytes inputs = (SignedBytes)_mm256_set1_epi32(LOAD(int32_t, x + 4 * i));
            sums = dot_bytes(sums, LOAD(Bytes, codes + 32 * i), inputs, 1);
        }
        return sums;
    }
    __m256i pairs = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < count; i++) {
        __m256i inputs = _mm256_set1_epi32(LOAD(int32_t, x + 4 * i));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(LOAD(__m256i, codes + 32 * i), inputs));
    }
    return sums + (TileInts)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

/* Add the products of a tile by a chunk of a few rows. `step`: fours of codes whose products fit into 16 bits. */
INLINE void add_few_rows(const Tile *tile, const CodedInput *x, int chunk, TileFloats *sums, const int rows,
                         const int run, const int step, const int is_signed) {
    TileFloats sum[ROWS_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = sums[r];
    for (int i = 0; i < CHUNK / run; i++) {
        const int at = chunk * CHUNK + i * run;
        TileInts dots[ROWS_AT_ONCE];
        UNROLL for (int r = 0; r < rows; r++) dots[r] = (TileInts){0};
        for (int four = 0; four < run / 4; four += step) {
            const uint8_t *codes = tile->codes[i * run / 4 + four][0];
            UNROLL for (int r = 0; r < rows; r++)
                dots[r] = dot_lanes(dots[r], codes, x[r].codes + at + 4 * four, step, is_signed);
        }
        const TileFloats scale = LOAD(TileFloats, tile->scales[i]), offset = LOAD(TileFloats, tile->offsets[i]);
        UNROLL for (int r = 0; r < rows; r++) {
            sum[r] += __builtin_convertvector(dots[r], TileFloats) * (scale * x[r].scales[at / 32]);
            if (!is_signed) sum[r] += offset * (run == 32 ? x[r].sums : x[r].half_sums)[at / run];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

#define ADD_ROWS(NAME, RUN, STEP, IS_SIGNED)                                                                  \
    static void NAME(const Tile *tile, const CodedInput *x, int chunk, int rows, TileFloats *sums) {          \
        for (; rows >= ROWS_AT_ONCE; rows -= ROWS_AT_ONCE, x += ROWS_AT_ONCE, sums += ROWS_AT_ONCE)           \
            add_few_rows(tile, x, chunk, sums, ROWS_AT_ONCE, RUN, STEP, IS_SIGNED);                           \
        if (rows & 2) add_few_rows(tile, x, chunk, sums, 2, RUN, STEP, IS_SIGNED);                            \
        if (rows & 1) add_few_rows(tile, x + (rows & 2), chunk, sums + (rows & 2), 1, RUN, STEP, IS_SIGNED);  \
    }
ADD_ROWS(add_rows_32_4bits, 32, 8, 0)
ADD_ROWS(add_rows_32_5bits, 32, 4, 0)
ADD_ROWS(add_rows_16_5bits, 16, 4, 0)
ADD_ROWS(add_rows_16_6bits, 16, 2, 0)
#ifdef HAS_VNNI
#define add_rows_32_8bits add_rows_32_4bits
#else
ADD_ROWS(add_rows_32_8bits, 32, 1, 1)
#endif

static void multiply_rows(const Blocks *of, const Work *work) {
    Tile tile;
    CodedInput x[TILE_ROWS];
    TileFloats sums[TILE_ROWS];
    for (int row = 0; row < work->rows; row += TILE_ROWS) {
        const int rows = work->rows - row < TILE_ROWS ? work->rows - row : TILE_ROWS;
        for (int r = 0; r < rows; r++) x[r] = coded_input(work->x + (row + r) * work->x_stride, work->first.ins);
        for (int out = 0; out < work->outs; out += TILE_OUTS) {
            const int outs = work->outs - out < TILE_OUTS ? work->outs - out : TILE_OUTS;
            memset(sums, 0, rows * sizeof *sums);
            for (int chunk = 0; chunk * CHUNK < work->first.ins; chunk++) {
                load_tile(of, work, out, chunk, &tile);
                of->add_rows(&tile, x, chunk, rows, sums);
            }
            for (int r = 0; r < rows; r++) {
                float *y = work->y + (row + r) * work->y_stride + out;
                for (int o = 0; o < outs; o++) y[o] = sums[r][o] + (work->bias ? work->bias[out + o] : 0);
            }
        }
    }
}

#endif
