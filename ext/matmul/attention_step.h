/* Attention of one token of each of several sequences, which reads keys and values in their pages. */
#ifndef EXT_MATMUL_ATTENTION_STEP_H
#define EXT_MATMUL_ATTENTION_STEP_H

#include <stddef.h>
#include <stdint.h>

#define MAX_GROUP 256 /* query heads of a key head */

typedef enum Stored { STORED_FLOATS, STORED_BFLOATS, STORED_HALVES } Stored;

typedef struct AttentionStep {
    Stored stored;
    int rows, heads, key_heads, key_dim, value_dim;
    const float *query; /* (rows, heads, key_dim) */
    ptrdiff_t query_stride; /* from row to row */
    const uint8_t *keys, *values; /* (pages, page_size, key_heads, dim) */
    int page_size;
    const int64_t *pages; /* (rows, pages_per_row) */
    int pages_per_row;
    const int64_t *ends; /* [rows]: tokens of each sequence, the new one's included */
    int window; /* the tokens before the end that are seen, 0 for all */
    float scale;
    const float *sinks; /* [heads]: the score of a key that holds nothing; or NULL */
    float *out; /* (rows, heads, value_dim) */
    int threads;
} AttentionStep;

/* The query heads of one key head of a sequence. */
typedef struct AttentionHead {
    const AttentionStep *step;
    const int64_t *pages;
    int64_t first, end; /* of the tokens that are seen */
    const float *query; /* (heads, key_dim) */
    const float *sinks; /* [heads], or NULL */
    int heads;
    const uint8_t *keys, *values; /* the key head's first ones */
    float *out; /* (heads, value_dim) */
} AttentionHead;

struct Kernels;

void attention_step(const struct Kernels *kernels, const AttentionStep *step);

#endif
