#include "whole_attention_step.h"

#include <stdlib.h>

#include "formats.h"
#include "pool.h"

#define ROWS_AT_ONCE 96 /* that a thread takes: a multiple of what kernels take at once */
#define MOST_LANES 16

typedef struct Job {
    const Kernels *kernels;
    const WholeAttention *step;
    uint32_t *packed;
    size_t head_words, key_words;
    int tokens, pieces; /* pieces are of the rows */
} Job;

static int up_to(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

static WholeHead head_of(const Job *job, int number) {
    uint32_t *keys = job->packed + number * job->head_words;
    return (WholeHead){job->step, number, job->tokens, keys, keys + job->key_words};
}

static void pack(void *context, int number) {
    const Job *job = context;
    WholeHead head = head_of(job, number);
    job->kernels->pack_whole(&head);
}

static void attend(void *context, int number) {
    const Job *job = context;
    WholeHead head = head_of(job, number / job->pieces);
    int first = number % job->pieces * ROWS_AT_ONCE, left = job->step->rows - first;
    job->kernels->attend_whole(&head, first, left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE);
}

int whole_attention_step(const Kernels *kernels, const WholeAttention *step) {
    int tokens = up_to(step->tokens, SPAN);
    size_t key_words = (size_t)tokens * step->key_dim;
    Job job = {
        .kernels = kernels,
        .step = step,
        .head_words = key_words + (size_t)tokens * up_to(step->value_dim, MOST_LANES),
        .key_words = key_words,
        .tokens = tokens,
        .pieces = (step->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE,
    };
    job.packed = malloc(step->heads * job.head_words * sizeof *job.packed);
    if (!job.packed) return -1;
    pool_run(step->threads, step->heads, pack, &job);
    pool_run(step->threads, step->heads * job.pieces, attend, &job);
    free(job.packed);
    return 0;
}
