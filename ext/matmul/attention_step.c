#include "attention_step.h"

#include "formats.h"
#include "pool.h"

#define ALONE 100000 /* products that take less time than waking a thread */

typedef struct Job {
    const Kernels *kernels;
    const AttentionStep *step;
} Job;

static const int item_bytes[] = {[STORED_FLOATS] = 4, [STORED_BFLOATS] = 2, [STORED_HALVES] = 2};

static void take_head(void *context, int number) {
    const Job *job = context;
    const AttentionStep *step = job->step;
    int row = number / step->key_heads, key_head = number % step->key_heads, heads = step->heads / step->key_heads;
    int64_t end = step->ends[row];
    size_t bytes = (size_t)item_bytes[step->stored] * key_head;
    AttentionHead of = {
        .step = step,
        .pages = step->pages + (size_t)row * step->pages_per_row,
        .first = step->window && end > step->window ? end - step->window : 0,
        .end = end,
        .query = step->query + row * step->query_stride + (size_t)key_head * heads * step->key_dim,
        .sinks = step->sinks ? step->sinks + (size_t)key_head * heads : NULL,
        .heads = heads,
        .keys = step->keys + bytes * step->key_dim,
        .values = step->values + bytes * step->value_dim,
        .out = step->out + ((size_t)row * step->heads + key_head * heads) * step->value_dim,
    };
    job->kernels->attend_head(&of);
}

void attention_step(const Kernels *kernels, const AttentionStep *step) {
    Job job = {kernels, step};
    int64_t tokens = 0;
    for (int row = 0; row < step->rows; row++) tokens += step->ends[row];
    int64_t products = tokens * step->heads * (step->key_dim + step->value_dim);
    pool_run(products < ALONE ? 1 : step->threads, step->rows * step->key_heads, take_head, &job);
}
