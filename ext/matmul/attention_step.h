/* Attention of the last tokens of each of several sequences, which reads keys and values in their pages. */
#ifndef EXT_MATMUL_ATTENTION_STEP_H
#define EXT_MATMUL_ATTENTION_STEP_H

#include <stddef.h>
#include <stdint.h>

#define MAX_GROUP 256 /* query heads of a key head */

typedef enum Stored { STORED_FLOATS, STORED_BFLOATS, STORED_HALVES } Stored;

typedef struct AttentionStep {
    Stored stored;
    int rows, width, heads, key_heads, key_dim, value_dim; /* width: tokens of a row */
    const float *query; /* (rows, width, heads, key_dim) */
    ptrdiff_t query_stride; /* from token to token */
    const uint8_t *keys, *values; /* (pages, page_size, key_heads, dim) */
    int page_size;
    const int64_t *pages; /* (rows, pages_per_row) */
    int pages_per_row;
    const int64_t *ends; /* [rows]: tokens of each sequence, the new ones included */
    int window; /* the last tokens that a token sees, its own included; 0 for all */
    float scale;
    const float *sinks; /* [heads]: the score of a key that holds nothing; or NULL */
    float *out; /* (rows, width, heads, value_dim) */
    int threads;
} AttentionStep;

/* The query heads of one key head of a sequence. */
typedef struct AttentionHead {
    const AttentionStep *step;
    const int64_t *pages;
    int64_t first, end; /* of the tokens that are seen, by any */
    const float *query; /* (width, heads, key_dim), at the step's strides */
    const float *sinks; /* [heads], or NULL */
    int heads;
    const uint8_t *keys, *values; /* the key head's first ones */
    float *out; /* (width, heads, value_dim), at the step's strides */
} AttentionHead;

struct Kernels;

void attention_step(const struct Kernels *kernels, const AttentionStep *step);

#endif
