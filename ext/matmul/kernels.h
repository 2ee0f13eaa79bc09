/* Everything that is compiled once for each instruction set: `for_NAME.c` says which, with LANES, DOT_ROWS and
 * DOT_OUTS to suit it, and includes this file. */
#define NEAR_BYTES (192 * 1024) /* of inputs, which stay in the second cache while weights pass by */

#define MAX_LINES 4          /* rows of inputs that pass by weights one row after the other */
#define TILES_AHEAD 4        /* whose weights are on their way to the second cache */

typedef enum Asked { NOTHING, FAR, NEAR } Asked;

/* Rows of inputs for which an output's blocks are unpacked once; more go through tiles, where there are such. */
#if LANES == 16
#define DOT_MOST 2
#elif defined(HAS_AVX2) || defined(HAS_NEON)
#define DOT_MOST 1
#else
#define DOT_MOST 64
#endif

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

#include "bytes.h"
#include "inputs.h"
#include "pairs.h"
#include "chunk.h"
#include "tile.h"
#include "unpack_32.h"
#include "unpack_256.h"
#include "turned.h"
#include "all_blocks.h"
#include "values.h"
#include "scaled.h"
#include "table.h"
#include "attention.h"
#include "silu_gate.h"
#include "whole_attention.h"
#include "prompt_attention.h"
#include "delta_rule.h"
#include "rows.h"
#include "experts.h"

const Kernels KERNELS = {
    .name = KERNELS_NAME,
    .formats = formats,
    .num_formats = sizeof formats / sizeof *formats,
    .input_bytes = {NULL, BFLOAT_INPUT_BYTES, code_input_bytes},
    .prepare = {NULL, BFLOAT_PREPARE, prepare_codes},
    .delta_head = delta_head,
    .attend_head = attend_head,
    .tile_queries = TILE_QUERIES,
    .attend_tile = attend_tile,
    .pack_whole = pack_whole,
    .attend_whole = attend_whole,
    .gate_values = gate_values,
    .gelu_piece = gelu_piece,
    .norm_row = norm_row,
    .rotate_row = rotate_row,
    .sigmoid_gate = sigmoid_gate,
    .place_of_largest = place_of_largest,
    .store_row = store_row,
    .convolve_row = convolve_row,
    .clamped_gate = clamped_gate,
    .choose_experts = choose_experts,
    .gather_row = gather_row,
    .unpack_row = unpack_row,
    .sum_rows = sum_rows,
};
