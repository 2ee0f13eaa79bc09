/* Products of blocks by two rows and more: the codes of as many outputs as there are lanes are transposed, so that
 * no sum crosses lanes, and all rows take from the same tile. */
#if defined(HAS_AVX2) || defined(HAS_NEON)
#define HAS_TILES

#if LANES == 16
#define TILE_OUTS 16
#define ROWS_AT_ONCE 8 /* whose sums are in registers */
#define TURNED 16      /* outputs whose codes are transposed at once */
#elif defined(HAS_AVX2)
#define TILE_OUTS 8
#define ROWS_AT_ONCE 4
#define TURNED 8
#else
#define TILE_OUTS 4
#define ROWS_AT_ONCE 8
#define TURNED 4
#endif
#define TILE_ROWS 256       /* whose sums are kept at a time */
#define MAX_CHUNK_BYTES 272 /* q8_0's */

typedef int32_t TileInts __attribute__((vector_size(4 * TILE_OUTS)));
typedef float TileFloats __attribute__((vector_size(4 * TILE_OUTS)));

typedef struct __attribute__((aligned(64))) Tile {
    uint8_t codes[CHUNK / 4][TILE_OUTS][4];
    float scales[16][TILE_OUTS], offsets[16][TILE_OUTS];
} Tile;

/* A type of blocks. */
typedef struct Blocks {
    int elements, bytes;
    int centre; /* the code of 0, if it is the same in every block, which then has no offsets of its own */
    void (*fill)(const uint8_t *const *from, Tile *tile, int lane); /* the lanes of TURNED outputs */
    void (*add_rows)(const Tile *tile, int centre, const CodedChunk *x, int lane, int rows, TileFloats *sums);
} Blocks;

INLINE int chunk_bytes(const Blocks *of) { return CHUNK / of->elements * of->bytes; }

#ifdef HAS_AVX2
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

#endif

#if TURNED == 8
/* Eight numbers of each output become as many rows. */
INLINE void transpose_into(float (*to)[TILE_OUTS], const Ints8 *from, size_t stride) {
    Ints8 v[8];
    UNROLL for (int i = 0; i < 8; i++) v[i] = LOAD(Ints8, (const uint8_t *)from + i * stride);
    transpose(v);
    UNROLL for (int i = 0; i < 8; i++) STORE(Ints8, v[i], to[i]);
}
#elif TURNED == 4
INLINE void transpose_into(float (*to)[TILE_OUTS], const Ints8 *from, size_t stride) {
    UNROLL for (int half = 0; half < 2; half++) {
        int32x4_t v[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] = LOAD(int32x4_t, (const uint8_t *)from + i * stride + 16 * half);
        transpose_four(v);
        UNROLL for (int i = 0; i < 4; i++) STORE(int32x4_t, v[i], to[4 * half + i]);
    }
}
#endif

#if TURNED < 16
/* Fill TURNED lanes of a tile with what is in as many chunks. */
INLINE void fill_lanes(Chunk *chunks, Tile *tile, int lane, const int run, const int is_signed, const int centre) {
    if (is_signed)
        for (int i = 0; i < 4 * TURNED; i++) chunks[i / 4].codes[i % 4] = flipped(chunks[i / 4].codes[i % 4]);
    for (int i = 0; i < 8; i++) {
        const Ints8 *codes = (const Ints8 *)&chunks[0].codes[i / 2] + i % 2;
        float(*to)[TILE_OUTS] = (float(*)[TILE_OUTS])&tile->codes[8 * i][lane];
        transpose_into(to, codes, sizeof(Chunk));
    }
    for (int i = 0; i < 32 / run; i++) {
        float(*scales)[TILE_OUTS] = (float(*)[TILE_OUTS])&tile->scales[8 * i][lane];
        float(*offsets)[TILE_OUTS] = (float(*)[TILE_OUTS])&tile->offsets[8 * i][lane];
        transpose_into(scales, (Ints8 *)&chunks[0].scales[i], sizeof(Chunk));
        if (!centre) transpose_into(offsets, (Ints8 *)&chunks[0].offsets[i], sizeof(Chunk));
    }
}
#endif

/* Unpack a chunk of `outs` outputs. What is missing of the last chunk is zero, as its inputs are. */
static void load_tile(const Blocks *of, const Work *work, int out, int chunk, Tile *tile) {
    const int size = chunk_bytes(of), outs = work->outs - out;
    const int left = work->first.ins / of->elements * of->bytes - chunk * size;
    uint8_t last[TURNED][MAX_CHUNK_BYTES];
    for (int lane = 0; lane < TILE_OUTS; lane += TURNED) {
        const uint8_t *from[TURNED];
        for (int o = 0; o < TURNED; o++) {
            const int source = out + (lane + o < outs ? lane + o : 0);
            from[o] = work->first.parts[0] + source * work->strides[0] + (size_t)chunk * size;
            if (left >= size) continue;
            memset(last[o], 0, sizeof last[o]);
            from[o] = memcpy(last[o], from[o], left);
        }
        of->fill(from, tile, lane);
    }
}

/* Add `count` times the products of four codes of each output, by the same inputs for all. */
#if LANES == 16
INLINE TileInts dot_lanes(TileInts sums, const uint8_t *codes, const int8_t *x, const int count,
                          const int is_signed) {
#define FOUR(I) _mm512_set1_epi32(LOAD(int32_t, x + 4 * I))
#ifdef HAS_VNNI
    UNROLL for (int i = 0; i < count; i++)
        sums = (TileInts)dot_pair(sums, LOAD(Pair, codes + 64 * i), FOUR(i), is_signed);
    return sums;
#else
    if (is_signed) return (TileInts)dot_pair(sums, LOAD(Pair, codes), FOUR(0), 1); /* `count` is 1 */
    __m512i pairs = _mm512_setzero_si512();
    UNROLL for (int i = 0; i < count; i++)
        pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(LOAD(__m512i, codes + 64 * i), FOUR(i)));
    return sums + (TileInts)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
}
#elif defined(HAS_NEON)
INLINE TileInts dot_lanes(TileInts sums, const uint8_t *codes, const int8_t *x, const int count,
                          const int is_signed) {
    (void)is_signed; /* all codes are */
    for (int i = 0; i < count; i += 4) {
        const int8x16_t inputs = vld1q_s8(x + 4 * i);
#define ADD_FOUR(LANE) dots = add_lane(dots, vld1q_s8((const int8_t *)codes + 16 * (i + LANE)), inputs, LANE)
        int32x4_t dots = (int32x4_t)sums;
        ADD_FOUR(0), ADD_FOUR(1), ADD_FOUR(2), ADD_FOUR(3);
        sums = (TileInts)dots;
    }
    return sums;
}
#else
INLINE TileInts dot_lanes(TileInts sums, const uint8_t *codes, const int8_t *x, const int count,
                          const int is_signed) {
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
}
#endif

#if LANES == 16
#define COUNTS_CENTRE 1 /* where sums of products begin, so that floats have nothing to put right */

/* What codes of 0 alone would make of a chunk, times -1. */
INLINE void without_centre(int centre, const CodedChunk *x, int lane, const int rows, const int run, int32_t *to) {
    const int32_t *sums = run == BLOCK ? x->whole_sums[lane] : x->whole_half_sums[lane];
    UNROLL for (int i = 0; i < rows * CHUNK / run; i += 8) STORE(Ints8, LOAD(Ints8, sums + i) * -centre, to + i);
}
#else
#define COUNTS_CENTRE 0
INLINE void without_centre(int centre, const CodedChunk *x, int lane, const int rows, const int run, int32_t *to) {
    (void)centre, (void)x, (void)lane, (void)rows, (void)run, (void)to;
}
#endif

/* Add the products of a tile by a few rows of a panel. `step`: fours of codes whose products fit into 16 bits. */
INLINE void add_few_rows(const Tile *tile, int centre, const CodedChunk *x, int lane, TileFloats *sums, const int rows,
                         const int run, const int step, const int is_signed) {
    TileFloats sum[ROWS_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = sums[r];
    const int counts = COUNTS_CENTRE && !is_signed && centre;
    int32_t begins[ROWS_AT_ONCE * 16];
    if (counts) without_centre(centre, x, lane, rows, run, begins);
    const int8_t *inputs = x->codes[lane];
    const float *input_scales = x->scales[lane], *input_sums = run == BLOCK ? x->sums[lane] : x->half_sums[lane];
    for (int i = 0; i < CHUNK / run; i++, inputs += run, input_sums++) {
        TileInts dots[ROWS_AT_ONCE];
        UNROLL for (int r = 0; r < rows; r++) dots[r] = (TileInts){0} + (counts ? begins[r * (CHUNK / run) + i] : 0);
        UNROLL for (int four = 0; four < run / 4; four += step) {
            const uint8_t *codes = tile->codes[i * run / 4 + four][0];
            UNROLL for (int r = 0; r < rows; r++)
                dots[r] = dot_lanes(dots[r], codes, inputs + r * CHUNK + 4 * four, step, is_signed);
        }
        const TileFloats scale = LOAD(TileFloats, tile->scales[i]);
        UNROLL for (int r = 0; r < rows; r++) {
            const float of_inputs = input_sums[r * (CHUNK / run)];
            TileFloats product = __builtin_convertvector(dots[r], TileFloats);
            product *= input_scales[r * (CHUNK / BLOCK) + i * run / BLOCK];
            if (!is_signed && centre && !counts) product -= (float)centre * of_inputs;
            sum[r] += product * scale;
            if (!is_signed && !centre) sum[r] += LOAD(TileFloats, tile->offsets[i]) * of_inputs;
        }
    }
    UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

/* The same by up to a panel's rows. */
INLINE void add_lanes(const Tile *tile, int centre, const CodedChunk *x, int lane, int rows, TileFloats *sums,
                      const int run, const int step, const int is_signed) {
    for (; rows >= ROWS_AT_ONCE; rows -= ROWS_AT_ONCE, lane += ROWS_AT_ONCE, sums += ROWS_AT_ONCE)
        add_few_rows(tile, centre, x, lane, sums, ROWS_AT_ONCE, run, step, is_signed);
    if (ROWS_AT_ONCE > 4 && rows & 4) {
        add_few_rows(tile, centre, x, lane, sums, 4, run, step, is_signed);
        lane += 4, sums += 4;
    }
    if (rows & 2) add_few_rows(tile, centre, x, lane, sums, 2, run, step, is_signed);
    if (rows & 1) add_few_rows(tile, centre, x, lane + (rows & 2), sums + (rows & 2), 1, run, step, is_signed);
}

#define ADD_ROWS(NAME, RUN, STEP, IS_SIGNED)                                                                          \
    static void NAME(const Tile *tile, int centre, const CodedChunk *x, int lane, int rows, TileFloats *sums) {       \
        if (centre) add_lanes(tile, centre, x, lane, rows, sums, RUN, STEP, IS_SIGNED);                               \
        else add_lanes(tile, 0, x, lane, rows, sums, RUN, STEP, IS_SIGNED);                                           \
    }
#if defined(HAS_VNNI)
ADD_ROWS(add_rows_32_4bits, 32, 1, 0)
ADD_ROWS(add_rows_16_5bits, 16, 1, 0)
#define add_rows_32_5bits add_rows_32_4bits
#define add_rows_32_8bits add_rows_32_4bits
#define add_rows_16_6bits add_rows_16_5bits
#elif defined(HAS_AVX2)
ADD_ROWS(add_rows_32_4bits, 32, 8, 0)
ADD_ROWS(add_rows_32_5bits, 32, 4, 0)
ADD_ROWS(add_rows_32_8bits, 32, 1, 1)
ADD_ROWS(add_rows_16_5bits, 16, 4, 0)
ADD_ROWS(add_rows_16_6bits, 16, 2, 0)
#else
ADD_ROWS(add_rows_32_4bits, 32, 8, 0)
ADD_ROWS(add_rows_16_5bits, 16, 4, 0)
#define add_rows_32_5bits add_rows_32_4bits
#define add_rows_16_6bits add_rows_16_5bits
ADD_ROWS(add_rows_32_8bits, 32, 8, 1)
#endif

/* Ask for a part of the next outputs' weights, as they lie in memory: where tiles read, the CPU foresees nothing. What
 * is behind the last output is another piece's, or nobody's, which does no harm. */
INLINE void fetch_part(const Work *work, int out, int part, int parts) {
    const uint8_t *from = work->first.parts[0] + (out + TILE_OUTS) * work->strides[0];
    const size_t lines = (TILE_OUTS * work->strides[0] + 63) / 64;
    for (size_t line = part * lines / parts; line < (part + 1) * lines / parts; line++)
        __builtin_prefetch(from + 64 * line, 0, 2);
}

static void multiply_rows(const Blocks *of, const Work *work) {
    Tile tile;
    TileFloats sums[TILE_ROWS];
    const int chunks = num_chunks(work->first.ins);
    for (int first = 0; first < work->rows; first += TILE_ROWS) {
        const int rows = work->rows - first < TILE_ROWS ? work->rows - first : TILE_ROWS;
        for (int out = 0; out < work->outs; out += TILE_OUTS) {
            const int outs = work->outs - out < TILE_OUTS ? work->outs - out : TILE_OUTS;
            memset(sums, 0, rows * sizeof *sums);
            for (int chunk = 0; chunk < chunks; chunk++) {
                load_tile(of, work, out, chunk, &tile);
                fetch_part(work, out, chunk, chunks);
                for (int r = 0, next; r < rows; r = next) {
                    const CodedInput x = coded_input(work, first + r);
                    next = r + PANEL_ROWS - x.lane < rows ? r + PANEL_ROWS - x.lane : rows;
                    of->add_rows(&tile, of->centre, x.chunks + chunk, x.lane, next - r, sums + r);
                }
            }
            for (int r = 0; r < rows; r++) {
                float *y = work->y + (first + r) * work->y_stride + out;
                for (int o = 0; o < outs; o++) y[o] = sums[r][o] + (work->bias ? work->bias[out + o] : 0);
            }
        }
    }
}

#endif
