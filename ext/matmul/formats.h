/* What a format of stored weights is to a product: a row of the table in `table.h`, and a function. Of blocks it
 * says what `Chunk` they are, of other codes what floats; either makes it whole: products of any number of rows,
 * grouped ones, on every instruction set. */
#ifndef EXT_MATMUL_FORMATS_H
#define EXT_MATMUL_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "attention_step.h"
#include "delta_step.h"
#include "experts_step.h"
#include "row_steps.h"
#include "whole_attention_step.h"

#define MAX_PARTS 3
#define PANEL_ROWS 8 /* of inputs that are turned into codes: they lie together, see `CodedChunk` */

/* A row of a stored matrix: one output's weights. */
typedef struct Row {
    const uint8_t *parts[MAX_PARTS]; /* blocks; or codes, scales and zeros */
    int ins;
    int group; /* inputs that share a scale, of codes with scales beside them */
} Row;

/* What inputs are turned into before they are multiplied. */
typedef enum Input { AS_FLOATS, AS_BFLOATS, AS_CODES, NUM_INPUTS } Input;

typedef struct Format Format;

/* Some rows of outputs by some rows of inputs. */
typedef struct Work {
    const Format *format;
    Row first;     /* of the outputs */
    size_t strides[MAX_PARTS]; /* bytes from an output's part to the next one's */
    int outs;
    const uint8_t *x; /* inputs as the format takes them, row by row; or from the panel on that has the first */
    size_t x_stride;  /* bytes of a row */
    int skipped;      /* rows of that panel that are not of these */
    int rows;
    const float *bias; /* of the first output, or NULL */
    float *y;          /* of the first output and row */
    size_t y_stride;   /* floats */
} Work;

struct Format {
    const char *name;
    int elements, bytes;       /* of a block */
    int scale_bytes, zero_bytes; /* of a group, of codes with scales beside them */
    Input input;
    void (*multiply)(const Work *work);
    void (*dequantize)(const Row *row, int at, int count, float *to);
};

/* What was compiled for one instruction set. */
typedef struct Kernels {
    const char *name;
    const Format *formats;
    int num_formats;
    size_t (*input_bytes[NUM_INPUTS])(int ins); /* of a row; NULL where floats are taken as they are */
    void (*prepare[NUM_INPUTS])(const float *x, int ins, int row, uint8_t *all);
    void (*delta_head)(const DeltaStep *step, int row, int key_head);
    void (*attend_head)(const AttentionHead *head);
    int tile_queries; /* that `attend_tile` takes at most */
    void (*attend_tile)(const AttentionHead *head, int first, int count); /* of the queries */
    void (*pack_whole)(const WholeHead *head);
    void (*attend_whole)(const WholeHead *head, int first, int count); /* of the rows */
    void (*gelu_piece)(const GeluStep *step, int64_t first, int count);
    void (*gate_values)(const float *gate, const float *up, int count, float *out);
    void (*norm_row)(const float *x, const float *weight, int dim, float eps, float *out);
    void (*rotate_row)(const RotateStep *step, int row);
    void (*sigmoid_gate)(const float *gate, int count, float *x);
    int64_t (*place_of_largest)(const float *x, int count);
    void (*store_row)(const StoreStep *step, int row);
    void (*convolve_row)(const ConvolutionStep *step, int row);
    void (*clamped_gate)(const ClampedGateStep *step, int row);
    void (*choose_experts)(const ChoiceStep *step, int row);
    void (*gather_row)(const GatherStep *step, int row);
    void (*unpack_row)(const UnpackStep *step, int row);
    void (*sum_rows)(const SumStep *step, int row);
} Kernels;

/* The instruction sets that this build has and this CPU runs, the best one first, then NULL. */
const Kernels *const *usable_kernels(void);

#endif
