/* The oldest block types of GGUF: 32 weights with one scale. */

typedef struct __attribute__((packed)) BlockQ8_0 {
    uint16_t scale;
    int8_t codes[32];
} BlockQ8_0;

static void unpack_q8_0(const Row *row, Codes to) {
    const BlockQ8_0 *blocks = (const BlockQ8_0 *)row->parts[0];
    for (int block = 0; block < row->ins / 32; block++) {
        memcpy(to.codes + 32 * block, blocks[block].codes, 32);
        to.scales[2 * block] = to.scales[2 * block + 1] = half_to_float(blocks[block].scale);
    }
}

typedef struct __attribute__((packed)) BlockQ4_0 {
    uint16_t scale;
    uint8_t codes[16]; /* weights i and i + 16 in byte i, the former in the lower half; 8 is zero */
} BlockQ4_0;

static void unpack_q4_0(const Row *row, Codes to) {
    const BlockQ4_0 *blocks = (const BlockQ4_0 *)row->parts[0];
    for (int block = 0; block < row->ins / 32; block++) {
        int8_t *codes = to.codes + 32 * block;
        for (int i = 0; i < 16; i++) {
            codes[i] = (int8_t)((blocks[block].codes[i] & 15) - 8);
            codes[i + 16] = (int8_t)((blocks[block].codes[i] >> 4) - 8);
        }
        to.scales[2 * block] = to.scales[2 * block + 1] = half_to_float(blocks[block].scale);
    }
}
