/* The formats, by the numbers that callers know them by: their places here, found by name. */
#define FLOATS(NAME, BYTES, INPUT) \
    {.name = #NAME, .elements = 1, .bytes = BYTES, .input = INPUT, .multiply = multiply_##NAME}
/* Blocks of so many weights in so many bytes. */
#define BLOCKS(NAME, ELEMENTS, BYTES) \
    {.name = #NAME, .elements = ELEMENTS, .bytes = BYTES, .input = AS_CODES, \
     .multiply = multiply_##NAME, .dequantize = dequantize_##NAME}
/* Codes of so many to a byte, with scales beside them and maybe zeros. */
#define SCALED(NAME, IN_BYTE)                                                                          \
    {.name = #NAME, .elements = IN_BYTE, .bytes = 1, .scale_bytes = 4, .zero_bytes = 1, .input = AS_FLOATS, \
     .multiply = multiply_##NAME, .dequantize = dequantize_##NAME}

static const Format formats[] = {
    FLOATS(f32, 4, AS_FLOATS),
    FLOATS(f16, 2, AS_FLOATS),
    FLOATS(bf16, 2, BFLOAT_INPUT),
    BLOCKS(q4_0, 32, 18),
    BLOCKS(q4_1, 32, 20),
    BLOCKS(q5_0, 32, 22),
    BLOCKS(q5_1, 32, 24),
    BLOCKS(q8_0, 32, 34),
    BLOCKS(iq4_nl, 32, 18),
    BLOCKS(mxfp4, 32, 17),
    BLOCKS(nvfp4, 64, 36),
    BLOCKS(q2_k, 256, 84),
    BLOCKS(q3_k, 256, 110),
    BLOCKS(q4_k, 256, 144),
    BLOCKS(q5_k, 256, 176),
    BLOCKS(q6_k, 256, 210),
    BLOCKS(iq4_xs, 256, 136),
    BLOCKS(tq2_0, 256, 66),
    SCALED(int4, 2),
    SCALED(int8, 1),
    SCALED(fp8, 1),
    SCALED(nf4, 2),
    SCALED(fp4, 2),
};
