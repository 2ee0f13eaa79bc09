#include "silu_gate_step.h"

#include <stddef.h>

#include "formats.h"
#include "pool.h"

#define PIECE 2048        /* values that a thread takes at a time */
#define LITTLE_PIECES 8   /* take no longer than to wake a thread */

typedef struct Job {
    const Kernels *kernels;
    const SiluGateStep *step;
    int pieces; /* of a row */
} Job;

static void take_piece(void *context, int number) {
    const Job *job = context;
    const SiluGateStep *step = job->step;
    size_t row = number / job->pieces;
    int at = number % job->pieces * PIECE, left = step->width - at;
    const float *gate = step->gate_up + row * 2 * step->width + at;
    job->kernels->gate_values(gate, gate + step->width, left < PIECE ? left : PIECE, step->out + row * step->width + at);
}

void silu_gate_step(const Kernels *kernels, const SiluGateStep *step) {
    Job job = {kernels, step, (step->width + PIECE - 1) / PIECE};
    int count = step->rows * job.pieces;
    pool_run(count <= LITTLE_PIECES ? 1 : step->threads, count, take_piece, &job);
}
