/* Everything that is compiled once for each instruction set: `for_NAME.c` says which, with LANES, DOT_ROWS and
 * DOT_OUTS to suit it, and includes this file. */
#define NEAR_BYTES (192 * 1024) /* of inputs, which stay in the second cache while weights pass by */

#define MAX_LINES 4    /* rows of inputs that pass by weights one row after the other */
#define AHEAD_BYTES 4096 /* at which a row that follows is asked for */

INLINE int rows_near(const Work *work) {
    int tiles = (int)(NEAR_BYTES / work->x_stride / DOT_ROWS);
    return (tiles ? tiles : 1) * DOT_ROWS;
}

#define KIND f32
#define WEIGHT float
#define LOAD_WEIGHTS load_floats
#include "dot.h"

#define KIND f16
#define WEIGHT uint16_t
#define LOAD_WEIGHTS load_halves
#include "dot.h"

#define KIND bf16
#define WEIGHT uint16_t
#ifdef HAS_BFLOAT_DOT
#define INPUT uint16_t
#define STORED Bfloats
#define TAKEN Bfloats
#define STEP (2 * LANES)
#define LOAD_WEIGHTS load_bfloat_pairs
#define LOAD_INPUTS load_bfloat_pairs
#define MULTIPLY_ADD add_bfloat_products
#else
#define LOAD_WEIGHTS load_bfloats
#endif
#include "dot.h"

#include "inputs.h"
#include "bytes.h"
#include "chunk.h"
#include "tile.h"
#include "unpack_32.h"
#include "unpack_256.h"
#include "all_blocks.h"
#include "values.h"
#include "scaled.h"
#include "table.h"
#include "delta_rule.h"
#include "attention.h"
#include "silu_gate.h"

const Kernels KERNELS = {
    .name = KERNELS_NAME,
    .formats = formats,
    .num_formats = sizeof formats / sizeof *formats,
    .input_bytes = {NULL, BFLOAT_INPUT_BYTES, code_input_bytes},
    .prepare = {NULL, BFLOAT_PREPARE, prepare_codes},
    .delta_head = delta_head,
    .attend_head = attend_head,
    .gate_values = gate_values,
};
