/* A product is divided by outputs: a matrix's next few for all of its rows, so that each weight is read once. */
#include "product.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

#define ALIGNMENT 64
#define PIECES 8                  /* for each thread, at least, so that none waits long for another */
#define MOST_BYTES (128 * 1024)   /* of a piece's weights, which then stay near while rows pass by */
#define LEAST_BYTES (64 * 1024)   /* of weights, of a thread: less takes no longer than to wake it */
#define OUTS_MULTIPLE 48          /* whole tiles of every instruction set */
#define FEW_ROWS 64               /* which pass by weights once */
#define SHRINKING_PIECES 512
#define SHRINKING_OUTS 16         /* whole tiles of few rows */
#define SHRUNK_BYTES (16 * 1024)

/* Memory of a thread that grows, and is kept. */
typedef struct Buffer {
    uint8_t *memory;
    size_t size;
} Buffer;

static _Thread_local Buffer inputs_buffer;

static uint8_t *grown(Buffer *buffer, size_t size) {
    if (size <= buffer->size) return buffer->memory;
    free(buffer->memory);
    *buffer = (Buffer){0};
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if ((buffer->memory = aligned_alloc(ALIGNMENT, size))) buffer->size = size;
    return buffer->memory;
}

typedef struct Job {
    const Kernels *kernels;
    const Format *format;
    const Product *of;
    const uint8_t *x;
    size_t x_stride;
    size_t strides[MAX_PARTS];
    int outs_at_once, pieces; /* of one matrix */
    int starts[SHRINKING_PIECES + 1]; /* of pieces, if they are not of so many outputs at once */
    const int32_t *used;      /* numbers of the matrices that have rows */
    uint8_t *prepared;
} Job;

static void prepare_rows(void *context, int number) {
    Job *job = context;
    const Product *of = job->of;
    int end = (number + 1) * PANEL_ROWS < of->rows ? (number + 1) * PANEL_ROWS : of->rows;
    for (int row = number * PANEL_ROWS; row < end; row++)
        job->kernels->prepare[job->format->input](of->x + (size_t)row * of->ins, of->ins, row, job->prepared);
}

static int prepare(Job *job) {
    const Product *of = job->of;
    Input input = job->format->input;
    job->x = (const uint8_t *)of->x;
    job->x_stride = of->ins * sizeof *of->x;
    if (!job->kernels->prepare[input]) return 0;
    job->x_stride = job->kernels->input_bytes[input](of->ins);
    int pieces = (of->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    job->prepared = grown(&inputs_buffer, pieces * PANEL_ROWS * job->x_stride);
    if (!job->prepared) return -1;
    pool_run(of->threads, pieces, prepare_rows, job);
    job->x = job->prepared;
    return 0;
}

static void multiply_piece(void *context, int number) {
    Job *job = context;
    const Product *of = job->of;
    int matrix = job->used[number / job->pieces];
    int piece = number % job->pieces;
    int out = job->outs_at_once ? piece * job->outs_at_once : job->starts[piece];
    int end = job->outs_at_once ? out + job->outs_at_once : job->starts[piece + 1];
    int start = matrix ? of->ends[matrix - 1] : 0;
    int skipped = job->format->input == AS_CODES ? start % PANEL_ROWS : 0;
    size_t first = (size_t)matrix * of->outs + out;
    Work work = {
        .format = job->format,
        .first = {.ins = of->ins, .group = of->group},
        .outs = (end < of->outs ? end : of->outs) - out,
        .x = job->x + (start - skipped) * job->x_stride,
        .x_stride = job->x_stride,
        .skipped = skipped,
        .rows = of->ends[matrix] - start,
        .bias = of->bias ? of->bias + first : NULL,
        .y = of->y + start * of->y_stride + out,
        .y_stride = of->y_stride,
    };
    for (int part = 0; part < MAX_PARTS; part++) {
        work.strides[part] = job->strides[part];
        if (of->parts[part]) work.first.parts[part] = of->parts[part] + first * job->strides[part];
    }
    job->format->multiply(&work);
}

/* Pieces of a few rows are for one thread alone, if there are many matrices. */
static void divide(Job *job, int num_used) {
    const Product *of = job->of;
    size_t row_bytes = job->strides[0] ? job->strides[0] : 1;
    int wanted = of->threads > 1 ? of->threads * PIECES / num_used + 1 : 1;
    int at_once = of->outs / wanted, most = (int)(MOST_BYTES / row_bytes);
    if (at_once > most) at_once = most;
    at_once = at_once / OUTS_MULTIPLE * OUTS_MULTIPLE;
    job->outs_at_once = at_once ? at_once : OUTS_MULTIPLE;
    job->pieces = (of->outs + job->outs_at_once - 1) / job->outs_at_once;
}

/* Where weights are read from memory: each piece is a share of what is left, so that threads read long runs, and come to
 * the end together. */
static void divide_shrinking(Job *job) {
    const Product *of = job->of;
    const int least = (int)(SHRUNK_BYTES / job->strides[0]) / SHRINKING_OUTS * SHRINKING_OUTS + SHRINKING_OUTS;
    job->outs_at_once = job->pieces = 0;
    for (int out = 0; out < of->outs;) {
        job->starts[job->pieces++] = out;
        int size = (of->outs - out) / (2 * of->threads) / SHRINKING_OUTS * SHRINKING_OUTS;
        out += job->pieces == SHRINKING_PIECES ? of->outs : size < least ? least : size;
    }
    job->starts[job->pieces] = of->outs;
}

static int threads_worth_waking(const Job *job, int num_used) {
    size_t worth = job->strides[0] * job->of->outs * num_used / LEAST_BYTES;
    return job->of->rows > PANEL_ROWS || worth > (size_t)job->of->threads ? job->of->threads : (int)worth;
}

int product(const Kernels *kernels, const Product *of) {
    Job job = {.kernels = kernels, .format = &kernels->formats[of->format], .of = of};
    int32_t *used = malloc((of->matrices + 1) * sizeof *used);
    if (!used) return -1;
    int num_used = 0;
    for (int matrix = 0; matrix < of->matrices; matrix++)
        if (of->ends[matrix] > (matrix ? of->ends[matrix - 1] : 0)) used[num_used++] = matrix;
    job.used = used;
    job.strides[0] = (size_t)of->ins / job.format->elements * job.format->bytes;
    if (of->group) {
        job.strides[1] = (size_t)of->ins / of->group * job.format->scale_bytes;
        job.strides[2] = (size_t)of->ins / of->group * job.format->zero_bytes;
    }
    int failed = 0;
    if (num_used && of->outs && !(failed = prepare(&job))) {
        if (of->matrices == 1 && of->rows <= FEW_ROWS && of->threads > 1 && job.strides[0]) divide_shrinking(&job);
        else divide(&job, num_used);
        pool_run(threads_worth_waking(&job, num_used), num_used * job.pieces, multiply_piece, &job);
    }
    free(used);
    return failed;
}
