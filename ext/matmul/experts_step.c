#include "experts_step.h"

#include <string.h>

#include "formats.h"

static void choose_row(const Kernels *kernels, const void *step, int row) { kernels->choose_experts(step, row); }

void choice_step(const Kernels *kernels, const ChoiceStep *step) {
    each_row(kernels, step, step->rows, step->experts, step->threads, choose_row);
}

/* The expert of a choice among those that are here; others are negative, or too many. */
static int64_t expert_of(const GroupStep *step, int choice) { return step->places[choice] - step->first; }

static int is_here(const GroupStep *step, int64_t expert) { return expert >= 0 && expert < step->experts; }

/* Sorted by counting: `ends` has counts, then beginnings, which move to the ends. */
void group_step(const GroupStep *step) {
    const int count = step->rows * step->chosen;
    int32_t start = 0;
    memset(step->ends, 0, step->experts * sizeof *step->ends);
    for (int i = 0; i < count; i++)
        if (is_here(step, expert_of(step, i))) step->ends[expert_of(step, i)]++;
    for (int expert = 0; expert < step->experts; expert++) {
        int32_t size = step->ends[expert];
        step->ends[expert] = start;
        start += size;
    }
    for (int i = 0; i < count; i++) {
        int64_t expert = expert_of(step, i);
        step->spots[i] = is_here(step, expert) ? step->ends[expert]++ : -1;
        if (step->spots[i] < 0) continue;
        step->sorted_experts[step->spots[i]] = expert;
        step->sources[step->spots[i]] = i / step->chosen;
    }
    for (int spot = start; spot < count; spot++) {
        step->sorted_experts[spot] = step->experts;
        step->sources[spot] = 0;
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
