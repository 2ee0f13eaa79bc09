/* Products of blocks by inputs that are rounded to codes. A weight is scale * code + offset, so a product is the
 * products of codes, which are whole numbers, times both scales, and the offset times the sum of the inputs. */

/* 256 weights. */
typedef struct Chunk {
    Bytes codes[8];                /* of 32 each */
    Floats8 scales[2], offsets[2]; /* of 32 each, and then there is only the first; or of 16 */
} Chunk;

/* Add the products by a row's inputs. Lanes are inputs; `run` is how many share a scale. Codes that are signed are
 * 128 more than they shall be, and their offsets are for that alone. */
INLINE void add_products(const Chunk *of, CodedInput x, int chunk, Floats8 *sums, const int run,
                         const int is_signed) {
    const Floats8 inputs = LOAD(Floats8, x.scales + 8 * chunk);
    Floats8 scales[2];
    if (run == 32) {
        scales[0] = of->scales[0] * inputs;
        if (!is_signed) sums[2] += of->offsets[0] * LOAD(Floats8, x.sums + 8 * chunk);
    } else {
        scales[0] = of->scales[0] * PICK(inputs, 0, 0, 1, 1, 2, 2, 3, 3);
        scales[1] = of->scales[1] * PICK(inputs, 4, 4, 5, 5, 6, 6, 7, 7);
        UNROLL for (int i = 0; i < 2; i++)
            sums[2] += of->offsets[i] * LOAD(Floats8, x.half_sums + 16 * chunk + 8 * i);
    }
    UNROLL for (int i = 0; i < 8; i++) {
        const Bytes codes = is_signed ? of->codes[i] ^ 128 : of->codes[i];
        const SignedBytes others = LOAD(SignedBytes, x.codes + CHUNK * chunk + 32 * i);
        const Ints8 dots = dot_bytes((Ints8){0}, codes, others, is_signed);
        const int a = run == 32 ? i : 2 * i % 8, b = run == 32 ? i : a + 1;
        const Floats8 scale = PICK(scales[run == 32 ? 0 : i / 4], a, a, a, a, b, b, b, b);
        sums[i % 2] += __builtin_convertvector(dots, Floats8) * scale;
    }
}
