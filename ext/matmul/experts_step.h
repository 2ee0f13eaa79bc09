/* What a layer of experts does beside its products (Shazeer et al. 2017): which experts each row goes to by its
 * logits, rows in the order of experts, and their sums. `neuron.device.expert_steps` has the rules in words. */
#ifndef EXT_MATMUL_EXPERTS_STEP_H
#define EXT_MATMUL_EXPERTS_STEP_H

#include <stdint.h>

#include "attention_step.h"

#define MOST_EXPERTS 1024 /* what a thread's stack has room for */

struct Kernels;

typedef enum Scores { SOFTMAX_OF_ALL, SIGMOIDS, SOFTMAX_OF_CHOSEN } Scores;

/* Experts of each row. NaN counts as the largest number. */
typedef struct ChoiceStep {
    int rows, experts, chosen; /* experts of a row, of all */
    const float *logits;       /* (rows, experts) */
    Scores scores;
    const float *bias;         /* [experts]: added to scores where they are compared; or NULL */
    int groups, kept, best;    /* of each group the sum of the best is compared, and some groups are kept */
    int is_normed;             /* weights are divided by their sum and eps */
    float eps, factor;
    int64_t *places;           /* (rows, chosen) */
    float *weights;            /* (rows, chosen) */
    int threads;
} ChoiceStep;

/* Where the rows of each expert stand, one after the other in the order of experts. Those of experts that are not here
 * have no spot: what is left at the end is for nobody. */
typedef struct GroupStep {
    int rows, chosen, experts, first; /* experts from the first one on are here */
    const int64_t *places; /* (rows, chosen): experts */
    int32_t *ends;         /* [experts] */
    int64_t *sorted_experts; /* [rows * chosen]: the expert of each row there, from the first one; past them for nobody */
    int64_t *sources;      /* [rows * chosen]: whose row it is */
    int64_t *spots;        /* (rows, chosen): where it is; -1: nowhere */
} GroupStep;

/* Rows of `x`, by number, as floats. */
typedef struct GatherStep {
    int rows, dim;
    const uint8_t *x;
    Stored stored;
    const int64_t *sources; /* [rows] */
    float *out;             /* (rows, dim) */
    int threads;
} GatherStep;

/* Rows of a matrix of blocks, by number, as floats that are `rounded` to what is stored of others. */
typedef struct UnpackStep {
    int format, rows, dim;
    const uint8_t *blocks;
    Stored rounded;
    const int64_t *sources; /* [rows] */
    float *out;             /* (rows, dim) */
    int threads;
} UnpackStep;

/* Sums of some rows with weights. */
typedef struct SumStep {
    int rows, chosen, dim;
    const float *x;
    const int64_t *spots;  /* (rows, chosen): rows of `x`; negative: none */
    const float *weights;  /* (rows, chosen) */
    float *out;            /* (rows, dim) */
    int threads;
} SumStep;

void choice_step(const struct Kernels *kernels, const ChoiceStep *step);
void group_step(const GroupStep *step);
void gather_step(const struct Kernels *kernels, const GatherStep *step);
void unpack_step(const struct Kernels *kernels, const UnpackStep *step);
void sum_step(const struct Kernels *kernels, const SumStep *step);

#endif
