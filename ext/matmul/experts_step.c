#include "experts_step.h"

#include <string.h>

#include "formats.h"

static void choose_row(const Kernels *kernels, const void *step, int row) { kernels->choose_experts(step, row); }

void choice_step(const Kernels *kernels, const ChoiceStep *step) {
    each_row(kernels, step, step->rows, step->experts, step->threads, choose_row);
}

/* Sorted by counting: `ends` has counts, then beginnings, which move to the ends. */
void group_step(const GroupStep *step) {
    const int count = step->rows * step->chosen;
    int32_t start = 0;
    memset(step->ends, 0, step->experts * sizeof *step->ends);
    for (int i = 0; i < count; i++) step->ends[step->places[i]]++;
    for (int expert = 0; expert < step->experts; expert++) {
        int32_t size = step->ends[expert];
        step->ends[expert] = start;
        start += size;
    }
    for (int i = 0; i < count; i++) {
        int32_t spot = step->ends[step->places[i]]++;
        step->sorted_experts[spot] = step->places[i];
        step->sources[spot] = i / step->chosen;
        step->spots[i] = spot;
    }
}

static void gather_row(const Kernels *kernels, const void *step, int row) { kernels->gather_row(step, row); }

void gather_step(const Kernels *kernels, const GatherStep *step) {
    each_row(kernels, step, step->rows, step->dim, step->threads, gather_row);
}

static void unpack_row(const Kernels *kernels, const void *step, int row) { kernels->unpack_row(step, row); }

void unpack_step(const Kernels *kernels, const UnpackStep *step) {
    each_row(kernels, step, step->rows, step->dim, step->threads, unpack_row);
}

static void sum_row(const Kernels *kernels, const void *step, int row) { kernels->sum_rows(step, row); }

void sum_step(const Kernels *kernels, const SumStep *step) {
    each_row(kernels, step, step->rows, step->chosen * step->dim, step->threads, sum_row);
}
