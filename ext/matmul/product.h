/* Products of inputs by stored matrices. */
#ifndef EXT_MATMUL_PRODUCT_H
#define EXT_MATMUL_PRODUCT_H

#include "formats.h"

typedef struct Product {
    int format;
    const float *x; /* (rows, ins) */
    int rows, ins;
    const uint8_t *parts[MAX_PARTS]; /* (matrices, outs, …) each */
    int outs;
    int group;
    const float *bias;    /* (matrices, outs), or NULL */
    const int32_t *ends;  /* of each matrix's rows, which stand together in the order of matrices */
    int matrices;
    float *y; /* (rows, outs) */
    size_t y_stride;      /* floats from row to row of it */
    int threads;
} Product;

/* Write y. Returns -1 where memory is short. */
int product(const Kernels *kernels, const Product *of);

#endif
