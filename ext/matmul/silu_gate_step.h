/* The activation of MLPs with a gate, silu(gate) * up, for rows that have both beside each other. */
#ifndef EXT_MATMUL_SILU_GATE_STEP_H
#define EXT_MATMUL_SILU_GATE_STEP_H

struct Kernels;

typedef struct SiluGateStep {
    int rows, width;
    const float *gate_up; /* (rows, 2 * width) */
    float *out;           /* (rows, width) */
    int threads;
} SiluGateStep;

void silu_gate_step(const struct Kernels *kernels, const SiluGateStep *step);

#endif
