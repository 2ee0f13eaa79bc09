#include "attention_step.h"

#include "formats.h"
#include "pool.h"

#define ALONE 100000 /* products that take less time than waking a thread */

typedef struct Job {
    const Kernels *kernels;
    const AttentionStep *step;
    int queries, tiles; /* of a key head of a sequence */
} Job;

static const int item_bytes[] = {[STORED_FLOATS] = 4, [STORED_BFLOATS] = 2, [STORED_HALVES] = 2};

static AttentionHead head_of(const AttentionStep *step, int number) {
    int row = number / step->key_heads, key_head = number % step->key_heads, heads = step->heads / step->key_heads;
    int64_t end = step->ends[row], most = (int64_t)step->window + step->width - 1;
    size_t bytes = (size_t)item_bytes[step->stored] * key_head, token = (size_t)row * step->width;
    return (AttentionHead){
        .step = step,
        .pages = step->pages + (size_t)row * step->pages_per_row,
        .first = step->window && end > most ? end - most : 0,
        .end = end,
        .query = step->query + token * step->query_stride + (size_t)key_head * heads * step->key_dim,
        .sinks = step->sinks ? step->sinks + (size_t)key_head * heads : NULL,
        .heads = heads,
        .keys = step->keys + bytes * step->key_dim,
        .values = step->values + bytes * step->value_dim,
        .out = step->out + (token * step->heads + key_head * heads) * step->value_dim,
    };
}

static void take_head(void *context, int number) {
    const Job *job = context;
    AttentionHead head = head_of(job->step, number);
    job->kernels->attend_head(&head);
}

static void take_tile(void *context, int number) {
    const Job *job = context;
    AttentionHead head = head_of(job->step, number / job->tiles);
    int most = job->kernels->tile_queries, first = number % job->tiles * most, left = job->queries - first;
    job->kernels->attend_tile(&head, first, left < most ? left : most);
}

void attention_step(const Kernels *kernels, const AttentionStep *step) {
    int queries = step->width * (step->heads / step->key_heads), heads = step->rows * step->key_heads;
    Job job = {kernels, step, queries, (queries + kernels->tile_queries - 1) / kernels->tile_queries};
    int64_t tokens = 0;
    for (int row = 0; row < step->rows; row++) tokens += step->ends[row] * step->width;
    int64_t products = tokens * step->heads * (step->key_dim + step->value_dim);
    int threads = products < ALONE ? 1 : step->threads;
    if (step->width == 1) pool_run(threads, heads, take_head, &job);
    else pool_run(threads, heads * job.tiles, take_tile, &job);
}
