#include "delta_step.h"

#include "formats.h"
#include "pool.h"

#define LITTLE 65536 /* numbers of states that take no longer than to wake a thread */

typedef struct Job {
    const Kernels *kernels;
    const DeltaStep *step;
} Job;

static void take_head(void *context, int number) {
    const Job *job = context;
    int key_heads = job->step->key_heads;
    job->kernels->delta_head(job->step, number / key_heads, number % key_heads);
}

void delta_step(const Kernels *kernels, const DeltaStep *step) {
    Job job = {kernels, step};
    size_t numbers = (size_t)step->rows * step->width * step->heads * step->key_dim * step->value_dim;
    pool_run(numbers <= LITTLE ? 1 : step->threads, step->rows * step->key_heads, take_head, &job);
}
