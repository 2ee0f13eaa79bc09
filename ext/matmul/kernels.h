/* Everything that is compiled once for each instruction set: `for_NAME.c` says which, with LANES, DOT_ROWS and
 * DOT_OUTS to suit it, and includes this file. */
#define NEAR_BYTES (192 * 1024) /* of inputs, which stay in the second cache while weights pass by */

#define MAX_LINES 4    /* rows of inputs that pass by weights one row after the other */
#define AHEAD_BYTES 4096 /* at which a row that follows is asked for */

INLINE int rows_near(const Work *work) {
    int tiles = (int)(NEAR_BYTES / work->x_stride / DOT_ROWS);
    return (tiles ? tiles : 1) * DOT_ROWS;
}

#define DOT multiply_f32
#define TILE tile_f32
#define LINES lines_f32
#define FEW few_f32
#define KEEP keep_f32
#define REST rest_f32
#define WEIGHTS weights_f32
#define WEIGHT float
#define INPUT float
#define STORED Floats
#define TAKEN Floats
#define STEP LANES
#define LOAD_WEIGHTS load_floats
#define LOAD_INPUTS load_floats
#define MULTIPLY_ADD(sum, weights, inputs) ((sum) + (weights) * (inputs))
#include "dot.h"

#define DOT multiply_f16
#define TILE tile_f16
#define LINES lines_f16
#define FEW few_f16
#define KEEP keep_f16
#define REST rest_f16
#define WEIGHTS weights_f16
#define WEIGHT uint16_t
#define INPUT float
#define STORED Floats
#define TAKEN Floats
#define STEP LANES
#define LOAD_WEIGHTS load_halves
#define LOAD_INPUTS load_floats
#define MULTIPLY_ADD(sum, weights, inputs) ((sum) + (weights) * (inputs))
#include "dot.h"

#ifdef HAS_BFLOAT_DOT
#define DOT multiply_bf16
#define TILE tile_bf16
#define LINES lines_bf16
#define FEW few_bf16
#define KEEP keep_bf16
#define REST rest_bf16
#define WEIGHTS weights_bf16
#define WEIGHT uint16_t
#define INPUT uint16_t
#define STORED Bfloats
#define TAKEN Bfloats
#define STEP (2 * LANES)
#define LOAD_WEIGHTS load_bfloat_pairs
#define LOAD_INPUTS load_bfloat_pairs
#define MULTIPLY_ADD add_bfloat_products
#include "dot.h"
#else
#define DOT multiply_bf16
#define TILE tile_bf16
#define LINES lines_bf16
#define FEW few_bf16
#define KEEP keep_bf16
#define REST rest_bf16
#define WEIGHTS weights_bf16
#define WEIGHT uint16_t
#define INPUT float
#define STORED Floats
#define TAKEN Floats
#define STEP LANES
#define LOAD_WEIGHTS load_bfloats
#define LOAD_INPUTS load_floats
#define MULTIPLY_ADD(sum, weights, inputs) ((sum) + (weights) * (inputs))
#include "dot.h"
#endif

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
