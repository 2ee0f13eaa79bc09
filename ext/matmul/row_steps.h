/* What a decoder does between its products that is neither attention nor a recurrence, row by row: norms, rotations,
 * sums, and what is written to the cache. Everything is in float32. */
#ifndef EXT_MATMUL_ROW_STEPS_H
#define EXT_MATMUL_ROW_STEPS_H

#include <stddef.h>
#include <stdint.h>

#include "attention_step.h"

struct Kernels;

/* Call take(kernels, step, 0), … for each row, so many of them in a thread's piece that `dim` numbers a row are worth it. */
typedef void (*TakeRow)(const struct Kernels *kernels, const void *step, int row);
void each_row(const struct Kernels *kernels, const void *step, int rows, int dim, int threads, TakeRow take);

/* Root mean square norms of rows (Zhang and Sennrich 2019). */
typedef struct NormStep {
    int rows, dim;
    const float *x, *weight; /* (rows, dim), [dim] */
    ptrdiff_t stride; /* from row to row */
    float eps;
    float *out; /* (rows, dim), or `x` */
    ptrdiff_t out_stride;
    int threads;
} NormStep;

/* Heads that are normed each, if there are weights, then rotated, if there are angles (Su et al. 2021), and rounded
 * to what is stored. */
typedef struct RotateStep {
    int rows, heads, dim, rotated;
    float *x; /* (rows, heads, dim) */
    ptrdiff_t stride; /* from row to row */
    const float *norm; /* (heads, dim), or NULL */
    float eps;
    const float *cos, *sin; /* (rows, rotated), or NULL; the sines of the first half are negated */
    Stored stored;
    int threads;
} RotateStep;

/* Rows that are written to places of a pool. */
typedef struct StoreStep {
    int rows, dim;
    const float *x;
    ptrdiff_t stride;
    const int64_t *places; /* [rows]: rows of the pool */
    uint8_t *pool;
    Stored stored; /* floats or bfloats */
} StoreStep;

/* A causal convolution of each channel, for a token of each sequence, with a gate before it and one after it. */
typedef struct ConvolutionStep {
    int rows, dim, kernel;
    const int64_t *slots; /* [rows] */
    uint8_t *tails;       /* (slots, kernel - 1, dim) */
    Stored stored;        /* floats or bfloats */
    const float *inputs;  /* (rows, 3, dim): the gates, and what they gate */
    const float *weights; /* (kernel, dim) */
    const float *bias;    /* [dim], or NULL */
    float *out;           /* (rows, dim) */
    int threads;
} ConvolutionStep;

/* Where a token of each slot is: its row of the page table, the end of its sequence, and its place in the cache. */
typedef struct LocateStep {
    int rows, pages_per_slot, page_size;
    const int64_t *slots, *positions, *table;
    int64_t *pages, *ends, *places;
} LocateStep;

/* Rows that are multiplied by the sigmoid of a gate. */
typedef struct SigmoidGateStep {
    int rows, dim;
    const float *gate;
    ptrdiff_t stride; /* from row to row of the gate */
    float *x; /* (rows, dim) */
    int threads;
} SigmoidGateStep;

/* gpt-oss' gate: see `neuron.device.row_steps.clamped_gate`. */
typedef struct ClampedGateStep {
    int rows, width;
    const float *gate_up; /* (rows, width, 2) */
    float alpha, limit;
    float *out; /* (rows, width) */
    int threads;
} ClampedGateStep;

/* GELU by the hyperbolic tangent (Hendrycks and Gimpel 2016). */
typedef struct GeluStep {
    Stored stored; /* STORED_FLOATS or STORED_BFLOATS */
    int64_t count;
    const uint8_t *x;
    uint8_t *out;
    int threads;
} GeluStep;

/* Of each row the place of its largest number, or -1 if it has one that is NaN. */
typedef struct LargestStep {
    int rows, dim;
    const float *x; /* (rows, dim) */
    int64_t *places;
    int threads;
} LargestStep;

void norm_step(const struct Kernels *kernels, const NormStep *step);
void rotate_step(const struct Kernels *kernels, const RotateStep *step);
void store_step(const struct Kernels *kernels, const StoreStep *step);
void sigmoid_gate_step(const struct Kernels *kernels, const SigmoidGateStep *step);
void convolution_step(const struct Kernels *kernels, const ConvolutionStep *step);
void gelu_step(const struct Kernels *kernels, const GeluStep *step);
void clamped_gate_step(const struct Kernels *kernels, const ClampedGateStep *step);
void scale_by_sigmoid_step(int rows, int dim, const float *gates, float *x); /* each row by its own */
void largest_step(const struct Kernels *kernels, const LargestStep *step);
void locate_step(const LocateStep *step);
void add_step(const float *x, size_t count, float *to); /* to += x */

#endif
