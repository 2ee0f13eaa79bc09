#include "delta_step.h"

#include "formats.h"
#include "pool.h"

#define LITTLE_HEADS 16 /* take no longer than to wake a thread */

typedef struct Job {
    const Kernels *kernels;
    const DeltaStep *step;
} Job;

static void take_head(void *context, int number) {
    const Job *job = context;
    const DeltaStep *step = job->step;
    int row = number / step->heads, head = number % step->heads;
    int key_head = head / (step->heads / step->key_heads);
    DeltaHead of = {
        .state = step->states + (size_t)number * step->key_dim * step->value_dim,
        .key_dim = step->key_dim,
        .value_dim = step->value_dim,
        .query = step->query + row * step->query_stride + key_head * step->key_dim,
        .key = step->key + row * step->key_stride + key_head * step->key_dim,
        .value = step->value + row * step->value_stride + head * step->value_dim,
        .log_decay = step->log_decay[number],
        .strength = step->strength[number],
        .out = step->out + (size_t)number * step->value_dim,
    };
    job->kernels->delta_head(&of);
}

void delta_step(const Kernels *kernels, const DeltaStep *step) {
    Job job = {kernels, step};
    int is_little = step->rows * step->heads <= LITTLE_HEADS;
    pool_run(is_little ? 1 : step->threads, step->rows * step->heads, take_head, &job);
}
