/* Inputs as products take them: rounded to bfloat16, or to whole numbers of eight bits with a scale for each 32. */

#define BLOCK 32
#define CHUNK 256 /* weights are unpacked at a time; inputs end with zeros, up to a multiple of it */

/* So many inputs of a panel's rows. A row is a lane of it, so that several rows are read from one place. */
typedef struct CodedChunk {
    int8_t codes[PANEL_ROWS][CHUNK];
#if LANES == 16
    int8_t halved[PANEL_ROWS][CHUNK]; /* vectors of 64 bytes: of each four blocks the first halves, then the others */
    int32_t whole_sums[PANEL_ROWS][CHUNK / BLOCK]; /* of the block's codes */
    int32_t whole_half_sums[PANEL_ROWS][2 * CHUNK / BLOCK];
#endif
    float scales[PANEL_ROWS][CHUNK / BLOCK];
    float sums[PANEL_ROWS][CHUNK / BLOCK]; /* of the block's values */
    float half_sums[PANEL_ROWS][2 * CHUNK / BLOCK];
} CodedChunk;

INLINE int num_chunks(int ins) { return (ins + CHUNK - 1) / CHUNK; }

/* A row of inputs. */
typedef struct CodedInput {
    const CodedChunk *chunks;
    int lane;
} CodedInput;

INLINE CodedInput coded_input(const Work *work, int row) {
    const int lane = (work->skipped + row) % PANEL_ROWS;
    return (CodedInput){(const CodedChunk *)(work->x + (work->skipped + row - lane) * work->x_stride), lane};
}

static size_t code_input_bytes(int ins) { return num_chunks(ins) * sizeof(CodedChunk) / PANEL_ROWS; }

#define BLOCK_VECTORS (BLOCK / LANES)
typedef int8_t FewCodes __attribute__((vector_size(LANES)));

/* The bits of magnitudes are in the order of magnitudes, NaN above all: it makes the scale NaN, and the result. */
INLINE float largest(const Floats *x) {
    Integers most = {0};
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
        const Integers bits = (Integers)x[i] & 0x7fffffff, more = bits > most;
        most = (more & bits) | (~more & most);
    }
    return float_of_bits((uint32_t)largest_lane(most));
}

INLINE void encode_block(const float *from, CodedChunk *to, int lane, int block) {
    Floats x[BLOCK_VECTORS];
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) x[i] = load_floats(from + i * LANES);
    const float scale = largest(x) / 127, inverse = scale ? 1 / scale : 0;
    int8_t *codes = to->codes[lane] + block * BLOCK;
    Integers halves[2] = {0};
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
        /* the last bits of the sum are the number, rounded to the nearest even one */
        const Integers whole = (Integers)(x[i] * inverse + 0x1.8p23f) << 24 >> 24;
        STORE(FewCodes, __builtin_convertvector(whole, FewCodes), codes + i * LANES);
        halves[2 * i / BLOCK_VECTORS] += whole;
    }
    const int first = sum_integers(halves[0]), second = sum_integers(halves[1]);
    to->half_sums[lane][2 * block] = scale * (float)first;
    to->half_sums[lane][2 * block + 1] = scale * (float)second;
    to->sums[lane][block] = scale * (float)(first + second);
    to->scales[lane][block] = scale;
#if LANES == 16
    to->whole_sums[lane][block] = first + second;
    to->whole_half_sums[lane][2 * block] = first;
    to->whole_half_sums[lane][2 * block + 1] = second;
    UNROLL for (int half = 0; half < 2; half++)
        memcpy(to->halved[lane] + block / 4 * 128 + 64 * half + block % 4 * 16, codes + half * BLOCK / 2, BLOCK / 2);
#endif
}

static void prepare_codes(const float *x, int ins, int row, uint8_t *all) {
    CodedChunk *to = (CodedChunk *)all + row / PANEL_ROWS * num_chunks(ins);
    for (int at = 0; at < num_chunks(ins) * CHUNK; at += BLOCK) {
        float last[BLOCK] = {0};
        const float *from = at + BLOCK <= ins ? x + at : last;
        if (from == last && at < ins) memcpy(last, x + at, (ins - at) * sizeof *x);
        encode_block(from, to + at / CHUNK, row % PANEL_ROWS, at % CHUNK / BLOCK);
    }
}

#ifdef HAS_BFLOAT_DOT
#define BFLOAT_INPUT_BYTES bfloat_input_bytes
#define BFLOAT_PREPARE prepare_bfloats
#define BFLOAT_INPUT AS_BFLOATS

static size_t bfloat_input_bytes(int ins) { return ((size_t)ins * 2 + 63) / 64 * 64; }

/* To the nearest, even where two are; NaN stays NaN. */
static void prepare_bfloats(const float *x, int ins, int row, uint8_t *all) {
    uint16_t *rounded = (uint16_t *)(all + row * bfloat_input_bytes(ins));
    for (int i = 0; i < ins; i++) {
        uint32_t bits = bits_of_float(x[i]);
        uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        rounded[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : nearest);
    }
}
#else
#define BFLOAT_INPUT_BYTES NULL
#define BFLOAT_PREPARE NULL
#define BFLOAT_INPUT AS_FLOATS
#endif
