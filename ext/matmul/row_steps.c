#include "row_steps.h"

#include <math.h>
#include <string.h>

#include "formats.h"
#include "pool.h"

#define PIECE 16384 /* numbers that a thread takes at a time */
#define LITTLE 4    /* pieces that take no longer than to wake a thread */

typedef struct Job {
    const Kernels *kernels;
    const void *step;
    int rows, at_once;
    TakeRow take;
} Job;

static void take_piece(void *context, int number) {
    const Job *job = context;
    int first = number * job->at_once, end = first + job->at_once < job->rows ? first + job->at_once : job->rows;
    for (int row = first; row < end; row++) job->take(job->kernels, job->step, row);
}

void each_row(const Kernels *kernels, const void *step, int rows, int dim, int threads, TakeRow take) {
    int at_once = dim < PIECE ? PIECE / dim : 1, pieces = (rows + at_once - 1) / at_once;
    Job job = {kernels, step, rows, at_once, take};
    pool_run(pieces <= LITTLE ? 1 : threads, pieces, take_piece, &job);
}

static void norm_row(const Kernels *kernels, const void *context, int row) {
    const NormStep *step = context;
    const float *x = step->x + row * step->stride;
    kernels->norm_row(x, step->weight, step->dim, step->eps, step->out + row * step->out_stride);
}

void norm_step(const Kernels *kernels, const NormStep *step) {
    each_row(kernels, step, step->rows, step->dim, step->threads, norm_row);
}

static void rotate_row(const Kernels *kernels, const void *context, int row) {
    kernels->rotate_row(context, row);
}

void rotate_step(const Kernels *kernels, const RotateStep *step) {
    each_row(kernels, step, step->rows, step->heads * step->dim, step->threads, rotate_row);
}

static void gate_row(const Kernels *kernels, const void *context, int row) {
    const SigmoidGateStep *step = context;
    kernels->sigmoid_gate(step->gate + row * step->stride, step->dim, step->x + (size_t)row * step->dim);
}

void sigmoid_gate_step(const Kernels *kernels, const SigmoidGateStep *step) {
    each_row(kernels, step, step->rows, step->dim, step->threads, gate_row);
}

static void convolve_row(const Kernels *kernels, const void *step, int row) { kernels->convolve_row(step, row); }

void convolution_step(const Kernels *kernels, const ConvolutionStep *step) {
    each_row(kernels, step, step->rows, step->dim * step->kernel, step->threads, convolve_row);
}

static void clamp_row(const Kernels *kernels, const void *step, int row) { kernels->clamped_gate(step, row); }

void clamped_gate_step(const Kernels *kernels, const ClampedGateStep *step) {
    each_row(kernels, step, step->rows, step->width, step->threads, clamp_row);
}

typedef struct GeluJob {
    const Kernels *kernels;
    const GeluStep *step;
} GeluJob;

static void gelu_piece(void *context, int number) {
    const GeluJob *job = context;
    int64_t first = (int64_t)number * PIECE, left = job->step->count - first;
    job->kernels->gelu_piece(job->step, first, left < PIECE ? (int)left : PIECE);
}

void gelu_step(const Kernels *kernels, const GeluStep *step) {
    GeluJob job = {kernels, step};
    int pieces = (int)((step->count + PIECE - 1) / PIECE);
    pool_run(pieces <= LITTLE ? 1 : step->threads, pieces, gelu_piece, &job);
}

void scale_by_sigmoid_step(int rows, int dim, const float *gates, float *x) {
    for (int row = 0; row < rows; row++) {
        const float scale = 1 / (1 + expf(-gates[row]));
        for (int d = 0; d < dim; d++) *x++ *= scale;
    }
}

static void look_at_row(const Kernels *kernels, const void *context, int row) {
    const LargestStep *step = context;
    step->places[row] = kernels->place_of_largest(step->x + (size_t)row * step->dim, step->dim);
}

void largest_step(const Kernels *kernels, const LargestStep *step) {
    each_row(kernels, step, step->rows, step->dim, step->threads, look_at_row);
}

void store_step(const Kernels *kernels, const StoreStep *step) {
    for (int row = 0; row < step->rows; row++) kernels->store_row(step, row);
}

void locate_step(const LocateStep *step) {
    for (int row = 0; row < step->rows; row++) {
        int64_t position = step->positions[row], *pages = step->pages + (size_t)row * step->pages_per_slot;
        const int64_t *of_slot = step->table + (size_t)step->slots[row] * step->pages_per_slot;
        memcpy(pages, of_slot, step->pages_per_slot * sizeof *pages);
        step->ends[row] = position + 1;
        step->places[row] = pages[position / step->page_size] * step->page_size + position % step->page_size;
    }
}

void add_step(const float *x, size_t count, float *to) {
    for (size_t i = 0; i < count; i++) to[i] += x[i];
}
