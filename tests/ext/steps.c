/* Compares what every instruction set that this CPU runs makes of the steps between products with what plain C does:
 * a line for each has the set's name, the step's, and the largest difference, by the largest number of the result.
 * It is built for other CPUs than the tests run on: see test_aarch64.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats.h"
#include "operations.h"
#include "program.h"
#include "silu_gate_step.h"

#define ROWS 5
#define DIM 144 /* no multiple of 32 */
#define MOST 200000

typedef struct Result {
    float numbers[MOST];
    int count;
} Result;

static uint32_t seed;

static uint32_t drawn(void) { return seed = seed * 1664525 + 1013904223, seed >> 8; }

static float drawn_float(void) { return (float)(int)(drawn() % 2001 - 1000) / 300; }

static float *floats(int count) {
    float *made = malloc(count * sizeof *made);
    for (int i = 0; i < count; i++) made[i] = drawn_float();
    return made;
}

/* Numbers as they are stored, not far from 1. */
static uint8_t *stored_numbers(Stored stored, int count) {
    if (stored == STORED_FLOATS) return (uint8_t *)floats(count);
    uint16_t *made = malloc(count * sizeof *made);
    for (int i = 0; i < count; i++)
        made[i] = (uint16_t)((drawn() & 0x80ff) | (stored == STORED_BFLOATS ? 0x3f00 : 0x3800));
    return (uint8_t *)made;
}

static int64_t *places(int count, int below) {
    int64_t *made = malloc(count * sizeof *made);
    for (int i = 0; i < count; i++) made[i] = (count - i) % below;
    return made;
}

static float *room(Result *to, int count) {
    float *at = to->numbers + to->count;
    if ((to->count += count) > MOST) abort();
    return at;
}

/* Add numbers to a result that are not where it is. */
static void keep(Result *to, Stored stored, const void *from, int count) {
    float *at = room(to, count);
    for (int i = 0; i < count; i++) {
        uint32_t bits = stored == STORED_FLOATS ? ((const uint32_t *)from)[i] : (uint32_t)((const uint16_t *)from)[i] << 16;
        memcpy(at + i, &bits, sizeof bits);
    }
}

static void keep_places(Result *to, const int64_t *from, int count) {
    float *at = room(to, count);
    for (int i = 0; i < count; i++) at[i] = (float)from[i];
}

static void attend(const Kernels *kernels, Stored stored, int width, int window, int has_sinks, Result *to) {
    enum { PAGE = 16, PAGES = 12, HEADS = 6, KEY_HEADS = 2, KEY = 48, VALUE = 64 };
    static const int64_t ends[ROWS] = {7, 40, 188, 100, 16};
    AttentionStep step = {
        .stored = stored, .rows = ROWS, .width = width, .heads = HEADS, .key_heads = KEY_HEADS, .key_dim = KEY,
        .value_dim = VALUE, .query = floats(ROWS * width * HEADS * KEY), .query_stride = HEADS * KEY,
        .keys = stored_numbers(stored, PAGES * PAGE * KEY_HEADS * KEY),
        .values = stored_numbers(stored, PAGES * PAGE * KEY_HEADS * VALUE), .page_size = PAGE,
        .pages = places(ROWS * PAGES, PAGES), .pages_per_row = PAGES, .ends = ends, .window = window, .scale = .1f,
        .sinks = has_sinks ? floats(HEADS) : NULL, .out = room(to, ROWS * width * HEADS * VALUE), .threads = 2,
    };
    attention_step(kernels, &step);
}

static void attend_step(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_HALVES; stored++)
        for (int i = 0; i < 4; i++) attend(kernels, stored, 1, i % 2 * 20, i / 2, to);
}

static void attend_prompt(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_HALVES; stored++)
        for (int i = 0; i < 4; i++) attend(kernels, stored, 3 + 2 * i % 5, i % 2 * 20, i / 2, to);
}

static void attend_whole(const Kernels *kernels, Result *to) {
    enum { HEADS = 3, TOKENS = 150, KEY = 48, VALUE = 40 };
    uint16_t *out = calloc(TOKENS * HEADS * VALUE, sizeof *out);
    WholeAttention step = {
        .heads = HEADS, .rows = TOKENS, .tokens = TOKENS, .key_dim = KEY, .value_dim = VALUE,
        .query = (uint16_t *)stored_numbers(STORED_BFLOATS, HEADS * TOKENS * KEY), .query_strides = {TOKENS * KEY, KEY},
        .keys = (uint16_t *)stored_numbers(STORED_BFLOATS, HEADS * TOKENS * KEY), .key_strides = {TOKENS * KEY, KEY},
        .values = (uint16_t *)stored_numbers(STORED_BFLOATS, HEADS * TOKENS * VALUE),
        .value_strides = {TOKENS * VALUE, VALUE}, .scale = .1f, .out = out, .threads = 2,
    };
    if (whole_attention_step(kernels, &step)) abort();
    keep(to, STORED_BFLOATS, out, TOKENS * HEADS * VALUE);
}

static void gelu(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_BFLOATS; stored++) {
        uint8_t *out = calloc(ROWS * 37, 4);
        GeluStep step = {stored, ROWS * 37, stored_numbers(stored, ROWS * 37), out, 1};
        gelu_step(kernels, &step);
        keep(to, stored, out, ROWS * 37);
    }
}

static void gates(const Kernels *kernels, Result *to) {
    SiluGateStep silu = {ROWS, 37, floats(ROWS * 74), room(to, ROWS * 37), 1};
    silu_gate_step(kernels, &silu);
    ClampedGateStep clamped = {ROWS, 37, floats(ROWS * 74), 1.7f, 2, room(to, ROWS * 37), 1};
    clamped_gate_step(kernels, &clamped);
    float *x = floats(ROWS * 37);
    SigmoidGateStep sigmoid = {ROWS, 37, floats(ROWS * 40), 40, x, 1};
    sigmoid_gate_step(kernels, &sigmoid);
    keep(to, STORED_FLOATS, x, ROWS * 37);
}

static void norm(const Kernels *kernels, Result *to) {
    NormStep step = {ROWS, DIM + 3, floats(ROWS * 200), floats(DIM + 3), 200, 1e-6f, room(to, ROWS * (DIM + 3)), DIM + 3, 1};
    norm_step(kernels, &step);
}

static void rotate(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_BFLOATS; stored++) {
        float *x = floats(ROWS * 4 * 48);
        RotateStep step = {ROWS, 4, 48, 44, x, 4 * 48, floats(4 * 48), 1e-6f, floats(ROWS * 44), floats(ROWS * 44), stored, 1};
        rotate_step(kernels, &step);
        keep(to, STORED_FLOATS, x, ROWS * 4 * 48);
    }
}

static void store(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_BFLOATS; stored++) {
        uint8_t *pool = calloc(ROWS * DIM, 4);
        StoreStep step = {ROWS, DIM, floats(ROWS * DIM), DIM, places(ROWS, ROWS), pool, stored};
        store_step(kernels, &step);
        keep(to, stored, pool, ROWS * DIM);
    }
}

static void convolve(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_BFLOATS; stored++) {
        uint8_t *tails = stored_numbers(stored, ROWS * 3 * DIM);
        ConvolutionStep step = {ROWS, DIM, 4, places(ROWS, ROWS), tails, stored, floats(ROWS * 3 * DIM), floats(4 * DIM),
                                floats(DIM), room(to, ROWS * DIM), 1};
        convolution_step(kernels, &step);
        keep(to, stored, tails, ROWS * 3 * DIM);
    }
}

static void largest(const Kernels *kernels, Result *to) {
    float *x = floats(ROWS * DIM);
    int64_t found[ROWS];
    x[DIM + 3] = NAN;
    x[2 * DIM + 130] = x[2 * DIM + 7] = 9;
    LargestStep step = {ROWS, DIM, x, found, 1};
    largest_step(kernels, &step);
    keep_places(to, found, ROWS);
}

static void choose_experts(const Kernels *kernels, Result *to) {
    for (Scores scores = SOFTMAX_OF_ALL; scores <= SOFTMAX_OF_CHOSEN; scores++) {
        int64_t chosen[ROWS * 6];
        ChoiceStep step = {ROWS, 40, 6, floats(ROWS * 40), scores, scores == SIGMOIDS ? floats(40) : NULL, 8, 4, 2, 1,
                           1e-20f, 2.5f, chosen, room(to, ROWS * 6), 1};
        choice_step(kernels, &step);
        keep_places(to, chosen, ROWS * 6);
    }
}

static void gather_and_sum(const Kernels *kernels, Result *to) {
    for (Stored stored = STORED_FLOATS; stored <= STORED_HALVES; stored++) {
        GatherStep step = {ROWS, 37, stored_numbers(stored, 9 * 37), stored, places(ROWS, 9), room(to, ROWS * 37), 1};
        gather_step(kernels, &step);
    }
    int64_t *spots = places(ROWS * 3, 9);
    spots[4] = -1;
    SumStep step = {ROWS, 3, 37, floats(9 * 37), spots, floats(ROWS * 3), room(to, ROWS * 37), 1};
    sum_step(kernels, &step);
}

static void delta_rule(const Kernels *kernels, Result *to) {
    enum { WIDTH = 20, KEY_HEADS = 2, HEADS = 4, KEY = 16, VALUE = 37, CHANNELS = 2 * KEY_HEADS * KEY + HEADS * VALUE };
    for (Stored stored = STORED_FLOATS; stored <= STORED_BFLOATS; stored++) {
        float *states = floats(ROWS * HEADS * KEY * VALUE), *rates = floats(HEADS);
        for (int i = 0; i < HEADS; i++) rates[i] = -fabsf(rates[i]);
        DeltaStep step = {
            .rows = 2, .width = WIDTH, .key_heads = KEY_HEADS, .heads = HEADS, .key_dim = KEY, .value_dim = VALUE,
            .kernel = 4, .slots = places(2, ROWS), .states = states, .tails = stored_numbers(stored, ROWS * 3 * CHANNELS),
            .stored = stored, .inputs = floats(2 * WIDTH * (CHANNELS + HEADS * VALUE + 2 * HEADS)),
            .convolution = floats(4 * CHANNELS), .rate = rates, .rate_bias = floats(HEADS), .most = 1,
            .norm = floats(VALUE), .eps = 1e-6f, .out = room(to, 2 * WIDTH * HEADS * VALUE), .threads = 2,
        };
        delta_step(kernels, &step);
        keep(to, STORED_FLOATS, states, ROWS * HEADS * KEY * VALUE);
    }
}

static Operation operation_named(const char *name) {
    for (int i = 0; i < num_operations; i++)
        if (!strcmp(operations[i].name, name)) return operations[i].run;
    abort();
}

static long long address(const void *of) { return (long long)(uintptr_t)of; }

/* A product of bfloat16 and a sum, recorded once, and run twice. */
static void replay(const Kernels *kernels, Result *to) {
    int number = 0, format = 0;
    while (usable_kernels()[number] != kernels) number++;
    while (strcmp(kernels->formats[format].name, "bf16")) format++;
    float *x = floats(ROWS * 64), *y = floats(ROWS * 64), *total = room(to, ROWS * 64);
    uint8_t *weights = stored_numbers(STORED_BFLOATS, 64 * 64);
    memset(total, 0, ROWS * 64 * sizeof *total);
    Program *program = program_new();
    long long product[MOST_NUMBERS] = {number, format, address(x), ROWS, 64, address(weights), 0, 0, 64, 0, 0, address(y),
                                       64, 2, 0, 1};
    long long sum[MOST_NUMBERS] = {address(y), ROWS * 64, address(total)};
    Reading read = {weights, 64 * 64 * 2};
    if (program_add(program, operation_named("multiply"), product, read)) abort();
    if (program_add(program, operation_named("add"), sum, (Reading){0})) abort();
    program_end(program);
    for (int i = 0; i < 2; i++)
        if (program_run(program)) abort();
    program_free(program);
}

static const struct Case {
    const char *name;
    void (*run)(const Kernels *kernels, Result *to);
} cases[] = {{"attend", attend_step}, {"attend_prompt", attend_prompt}, {"attend_whole", attend_whole}, {"gelu", gelu},
             {"gates", gates}, {"norm", norm}, {"rotate", rotate}, {"store", store}, {"convolve", convolve},
             {"largest", largest}, {"choose_experts", choose_experts}, {"gather_and_sum", gather_and_sum},
             {"delta_rule", delta_rule}, {"replay", replay}};

static float difference(const struct Case *of, const Kernels *kernels) {
    static Result results[2];
    const Kernels *const *plain = usable_kernels();
    while (plain[1]) plain++;
    const Kernels *both[] = {kernels, *plain};
    for (int i = 0; i < 2; i++) {
        seed = 1;
        results[i].count = 0;
        of->run(both[i], &results[i]);
    }
    float most = 0, largest = 0;
    for (int i = 0; i < results[1].count; i++) {
        float wrong = fabsf(results[0].numbers[i] - results[1].numbers[i]);
        most = wrong > most || isnan(wrong) ? wrong : most;
        largest = fabsf(results[1].numbers[i]) > largest ? fabsf(results[1].numbers[i]) : largest;
    }
    return most / largest;
}

int main(void) {
    for (const Kernels *const *set = usable_kernels(); *set; set++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            printf("%s %s %.1e\n", (*set)->name, cases[i].name, (double)difference(&cases[i], *set));
    return 0;
}
