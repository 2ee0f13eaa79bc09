/* One token of the gated delta rule for several sequences: `neuron.device.delta_rule` has the formula.
 *
 * A state is read once and written once, where torch's operations pass over it five times. */
#ifndef EXT_MATMUL_DELTA_STEP_H
#define EXT_MATMUL_DELTA_STEP_H

#include <stddef.h>

/* A head of a sequence. */
typedef struct DeltaHead {
    float *state; /* (key_dim, value_dim) */
    int key_dim, value_dim;
    const float *query, *key, *value;
    float log_decay, strength;
    float *out; /* [value_dim] */
} DeltaHead;

struct Kernels;

typedef struct DeltaStep {
    int rows, key_heads, heads, key_dim, value_dim;
    float *states; /* (rows, heads, key_dim, value_dim) */
    const float *query, *key, *value;
    ptrdiff_t query_stride, key_stride, value_stride; /* from row to row */
    const float *log_decay, *strength; /* (rows, heads) */
    float *out; /* (rows, heads, value_dim) */
    int threads;
} DeltaStep;

void delta_step(const struct Kernels *kernels, const DeltaStep *step);

#endif
