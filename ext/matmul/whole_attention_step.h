/* Attention of all tokens of one sequence in bfloat16, none of which is hidden from another: that of encoders. */
#ifndef EXT_MATMUL_WHOLE_ATTENTION_STEP_H
#define EXT_MATMUL_WHOLE_ATTENTION_STEP_H

#include <stddef.h>
#include <stdint.h>

#define MOST_DIM 256 /* numbers of a head's query, key or value */
#define SPAN 128     /* keys between two updates of the softmax: a multiple of what kernels take at once */

typedef struct WholeAttention {
    int heads, rows, tokens, key_dim, value_dim;
    const uint16_t *query, *keys, *values; /* (heads, rows or tokens, dim): each dim's numbers in a row */
    ptrdiff_t query_strides[2], key_strides[2], value_strides[2]; /* from head to head, from token to token */
    float scale;
    uint16_t *out; /* (rows, heads, value_dim) */
    int threads;
} WholeAttention;

/* Keys and values of a head, turned into what passes by queries. */
typedef struct WholeHead {
    const WholeAttention *step;
    int number, tokens; /* with those that fill the last span */
    uint32_t *keys;   /* (vectors of tokens, words of a key, LANES) */
    uint32_t *values; /* (tokens, or pairs of them, words of all their values) */
} WholeHead;

struct Kernels;

int whole_attention_step(const struct Kernels *kernels, const WholeAttention *step);

#endif
