/* A type of blocks, by NAME: a template. ELEMENTS and BYTES are a block's, RUN the weights that share a scale, BITS
 * those of the largest code. Of unpack_NAME it makes multiply_NAME. */
#define PASTE_(A, B) A##B
#define PASTE(A, B) PASTE_(A, B)
#if BITS == 8 && !defined(HAS_VNNI)
#define IS_SIGNED 1
#else
#define IS_SIGNED 0
#endif

static void PASTE(unpack_eight_, NAME)(const uint8_t *const *from, Chunk *to) {
    for (int o = 0; o < 8; o++) PASTE(unpack_, NAME)(from[o], to + o);
}

INLINE void PASTE(add_chunk_, NAME)(const uint8_t *from, CodedInput x, int chunk, Floats8 *sums) {
    Chunk c;
    PASTE(unpack_, NAME)(from, &c);
    const Floats8 inputs = LOAD(Floats8, x.scales + 8 * chunk);
    Floats8 scales[2];
#if RUN == 32
    scales[0] = c.scales[0] * inputs;
    if (!IS_SIGNED) sums[2] += c.offsets[0] * LOAD(Floats8, x.sums + 8 * chunk);
#else
    scales[0] = c.scales[0] * PICK(inputs, 0, 0, 1, 1, 2, 2, 3, 3);
    scales[1] = c.scales[1] * PICK(inputs, 4, 4, 5, 5, 6, 6, 7, 7);
    UNROLL for (int i = 0; i < 2; i++) sums[2] += c.offsets[i] * LOAD(Floats8, x.half_sums + 16 * chunk + 8 * i);
#endif
    UNROLL for (int i = 0; i < 8; i++) {
        const int first = RUN == 32 ? i : 2 * i % 8, second = RUN == 32 ? i : first + 1;
        const Bytes codes = IS_SIGNED ? c.codes[i] ^ 128 : c.codes[i];
        const Ints8 dots = dot_bytes((Ints8){0}, codes, LOAD(SignedBytes, x.codes + CHUNK * chunk + 32 * i), IS_SIGNED);
        const Floats8 scale = PICK(scales[RUN == 32 ? 0 : i / 4], first, first, first, first, second, second, second, second);
        sums[i % 2] += __builtin_convertvector(dots, Floats8) * scale;
    }
}

static float PASTE(dot_, NAME)(const uint8_t *from, int ins, CodedInput x) {
    const int size = CHUNK / ELEMENTS * BYTES, chunks = ins / CHUNK, left = ins % CHUNK / ELEMENTS * BYTES;
    Floats8 sums[3] = {{0}, {0}, {0}};
    for (int chunk = 0; chunk < chunks; chunk++) PASTE(add_chunk_, NAME)(from + (size_t)chunk * size, x, chunk, sums);
    if (left) {
        uint8_t last[CHUNK / ELEMENTS * BYTES] = {0};
        memcpy(last, from + (size_t)chunks * size, left);
        PASTE(add_chunk_, NAME)(last, x, chunks, sums);
    }
    return total(sums[0] + sums[1] + sums[2]);
}

static void PASTE(multiply_, NAME)(const Work *work) {
    static const Blocks blocks = {ELEMENTS, BYTES, RUN, IS_SIGNED, PASTE(unpack_eight_, NAME),
                                  PASTE(PASTE(PASTE(add_rows_, RUN), PASTE(_, BITS)), bits)};
    if (work->rows > 1) {
        multiply_rows(&blocks, work);
        return;
    }
    const CodedInput x = coded_input(work->x, work->first.ins);
    for (int out = 0; out < work->outs; out++)
        work->y[out] = PASTE(dot_, NAME)(work->first.parts[0] + out * work->strides[0], work->first.ins, x) +
                       (work->bias ? work->bias[out] : 0);
}

#undef NAME
#undef ELEMENTS
#undef BYTES
#undef RUN
#undef BITS
#undef IS_SIGNED
