/* What the gated delta rule's layer does between its two products, for some sequences, of some tokens each:
 * `neuron.models.fused.delta_rule` has the formula in torch's operations.
 *
 * A key head's part of all that is a task of its own: the convolution of its channels, the states of its heads,
 * what they read, normed and gated. A state is read once and written once a token, and stays in the first cache
 * while tokens pass by. */
#ifndef EXT_MATMUL_DELTA_STEP_H
#define EXT_MATMUL_DELTA_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "attention_step.h"

struct Kernels;

/* `inputs` has for each token queries, keys and values, which are convolved; a gate for each value; and the
 * strength and rate of each head. */
typedef struct DeltaStep {
    int rows, width, key_heads, heads, key_dim, value_dim, kernel;
    const int64_t *slots;      /* [rows]: of the pools below */
    float *states;             /* (slots, heads, key_dim, value_dim) */
    uint8_t *tails;            /* (slots, kernel - 1, channels) */
    Stored stored;             /* what tails are: floats or bfloats */
    const float *inputs;       /* (rows * width, channels + heads * value_dim + 2 * heads) */
    const float *convolution;  /* (kernel, channels) */
    const float *rate, *rate_bias; /* [heads] */
    float most;                /* of a strength */
    const float *norm;         /* [value_dim] */
    float eps;
    float *out;                /* (rows * width, heads, value_dim) */
    int threads;
} DeltaStep;

void delta_step(const struct Kernels *kernels, const DeltaStep *step);

#endif
