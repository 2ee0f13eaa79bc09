/* Inputs as products take them: rounded to bfloat16, or to whole numbers of eight bits with a scale for each 32. */

#define BLOCK 32
#define CHUNK 256 /* weights are unpacked at a time; rows of codes end with zeros, up to a multiple of it */

INLINE int padded(int ins) { return (ins + CHUNK - 1) / CHUNK * CHUNK; }

/* A row of inputs. */
typedef struct CodedInput {
    int8_t *codes;    /* [padded] */
    float *scales;    /* [padded / 32] */
    float *sums;      /* [padded / 32]: of the block's values */
    float *half_sums; /* [padded / 16] */
} CodedInput;

INLINE CodedInput coded_input(const uint8_t *at, int ins) {
    int size = padded(ins);
    float *scales = (float *)(at + size);
    return (CodedInput){(int8_t *)at, scales, scales + size / BLOCK, scales + 2 * size / BLOCK};
}

static size_t code_input_bytes(int ins) {
    size_t size = padded(ins);
    return (size + size / BLOCK * 4 * sizeof(float) + 63) / 64 * 64;
}

/* The bits of magnitudes are in the order of magnitudes, NaN above all: it makes the scale NaN, and the result. */
INLINE float largest(const float *x) {
    uint32_t most = 0;
    for (int i = 0; i < BLOCK; i++) {
        uint32_t bits = bits_of_float(x[i]) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return float_of_bits(most);
}

INLINE void encode_block(const float *x, int block, CodedInput to) {
    int8_t *codes = to.codes + block * BLOCK;
    float scale = largest(x) / 127, inverse = scale ? 1 / scale : 0;
    for (int i = 0; i < BLOCK; i++) /* the last bits of the sum are the number, rounded to the nearest even one */
        codes[i] = (int8_t)bits_of_float(x[i] * inverse + 0x1.8p23f);
    int halves[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < BLOCK / 2; i++) halves[half] += codes[half * BLOCK / 2 + i];
        to.half_sums[2 * block + half] = scale * (float)halves[half];
    }
    to.sums[block] = scale * (float)(halves[0] + halves[1]);
    to.scales[block] = scale;
}

static void prepare_codes(const float *x, int ins, uint8_t *to) {
    CodedInput coded = coded_input(to, ins);
    int block = 0;
    for (; (block + 1) * BLOCK <= ins; block++) encode_block(x + block * BLOCK, block, coded);
    for (; block < padded(ins) / BLOCK; block++) {
        float last[BLOCK] = {0};
        if (block * BLOCK < ins) memcpy(last, x + block * BLOCK, (ins - block * BLOCK) * sizeof *x);
        encode_block(last, block, coded);
    }
}

#ifdef HAS_BFLOAT_DOT
#define BFLOAT_INPUT_BYTES bfloat_input_bytes
#define BFLOAT_PREPARE prepare_bfloats
#define BFLOAT_INPUT AS_BFLOATS

static size_t bfloat_input_bytes(int ins) { return ((size_t)ins * 2 + 63) / 64 * 64; }

/* To the nearest, even where two are; NaN stays NaN. */
static void prepare_bfloats(const float *x, int ins, uint8_t *to) {
    uint16_t *rounded = (uint16_t *)to;
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
