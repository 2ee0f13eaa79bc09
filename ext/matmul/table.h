/* The formats, by the numbers that callers know them by: their places here, found by name. */
#include "blocks_32.h"

#define FLOATS(NAME, BYTES, INPUT) \
    {.name = #NAME, .elements = 1, .bytes = BYTES, .input = INPUT, .multiply = multiply_##NAME}
/* Blocks of so many weights in so many bytes, unpacked to codes by unpack_NAME. */
#define BLOCKS(NAME, ELEMENTS, BYTES, HAS_MINS)                                               \
    {.name = #NAME, .elements = ELEMENTS, .bytes = BYTES, .input = AS_CODES, .has_mins = HAS_MINS, \
     .multiply = multiply_codes, .unpack = unpack_##NAME}
/* Blocks that dequantize_NAME turns into floats. */
#define VALUES(NAME, ELEMENTS, BYTES)                                                              \
    {.name = #NAME, .elements = ELEMENTS, .bytes = BYTES, .input = AS_FLOATS, .multiply = multiply_values, \
     .dequantize = dequantize_##NAME}

static const Format formats[] = {
    FLOATS(f32, 4, AS_FLOATS),
    FLOATS(f16, 2, AS_FLOATS),
    FLOATS(bf16, 2, BFLOAT_INPUT),
    BLOCKS(q8_0, 32, 34, 0),
    BLOCKS(q4_0, 32, 18, 0),
};
