/* Compares the products of every instruction set that this CPU runs with those of plain C, format by format, and
 * prints a line for each set: its name, and the largest difference, by the largest number of the result. Weights are
 * random bytes; scales are numbers. It is built for other CPUs than the tests run on: see test_aarch64.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "product.h"

#define MOST_ROWS 19
#define OUTS 37
#define GROUP 32
#define MOST_BYTES (OUTS * 1088 * 4)

static uint32_t seed = 1;

static uint32_t drawn(void) { return seed = seed * 1664525 + 1013904223, seed >> 8; }

static float drawn_float(void) { return (float)(int)(drawn() % 2001 - 1000) / 1000; }

/* Where float16 numbers stand in a block: two places at most, -1 for none. */
static const struct Scales {
    const char *name;
    int at[2];
} scales[] = {{"q4_1", {0, 2}}, {"q5_1", {0, 2}}, {"q4_k", {0, 2}},    {"q5_k", {0, 2}},   {"q2_k", {80, 82}},
              {"q3_k", {108, -1}}, {"q6_k", {208, -1}}, {"tq2_0", {64, -1}}, {"mxfp4", {-1, -1}}, {"nvfp4", {-1, -1}}};

static void draw_blocks(const Format *format, int count, uint8_t *to) {
    struct Scales of = {format->name, {0, -1}};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (!strcmp(scales[i].name, format->name)) of = scales[i];
    for (int block = 0; block < count; block++, to += format->bytes) {
        for (int i = 0; i < format->bytes; i++) to[i] = (uint8_t)drawn();
        for (int i = 0; i < 2; i++)
            if (of.at[i] >= 0) to[of.at[i] + 1] = (uint8_t)((drawn() & 0x83) | 0x30); /* an exponent in the middle */
        if (!strcmp(format->name, "mxfp4")) *to = 120 + drawn() % 8;
    }
}

/* Of numbers, whose last byte has sign and exponent, and of one byte a code. */
static void draw_numbers(const Format *format, int count, uint8_t *to) {
    for (int i = 0; i < count * format->bytes; i++) to[i] = (uint8_t)drawn();
    for (int i = 1; format->elements == 1 && i <= count && format->bytes > 1; i++)
        to[i * format->bytes - 1] = (uint8_t)((drawn() & 0x80) | (!strcmp(format->name, "f16") ? 0x34 : 0x3e));
    for (int i = 0; !strcmp(format->name, "fp8") && i < count; i++) to[i] &= 0xbf; /* no NaN */
}

static float difference(const Kernels *kernels, int number, int rows, int ins, int threads) {
    static uint8_t weights[MOST_BYTES], zeros[OUTS * 1088];
    static float x[MOST_ROWS * 1088], bias[OUTS], group_scales[OUTS * 1088 / GROUP], y[2][MOST_ROWS * OUTS];
    const Format *format = &kernels->formats[number];
    int32_t end = rows;
    (format->elements > 2 ? draw_blocks : draw_numbers)(format, OUTS * ins / format->elements, weights);
    for (int i = 0; i < rows * ins; i++) x[i] = drawn_float();
    for (int i = 0; i < OUTS; i++) bias[i] = drawn_float();
    for (int i = 0; i < OUTS * ins / GROUP; i++) group_scales[i] = drawn_float(), zeros[i] = (uint8_t)(drawn() % 16);
    Product of = {.format = number, .x = x, .rows = rows, .ins = ins, .parts = {weights}, .outs = OUTS, .bias = bias,
                  .y_stride = OUTS, .ends = &end, .matrices = 1, .threads = threads};
    if (format->scale_bytes) {
        of.group = GROUP;
        of.parts[1] = (const uint8_t *)group_scales;
        if (!strncmp(format->name, "int", 3)) of.parts[2] = zeros;
    }
    const Kernels *const *plain = usable_kernels();
    while (plain[1]) plain++;
    const Kernels *both[] = {kernels, *plain};
    for (int i = 0; i < 2; i++) {
        of.y = y[i];
        if (product(both[i], &of)) exit(1);
    }
    float most = 0, largest = 0;
    for (int i = 0; i < rows * OUTS; i++) {
        float wrong = fabsf(y[0][i] - y[1][i]);
        most = wrong > most || isnan(wrong) ? wrong : most;
        largest = fabsf(y[1][i]) > largest ? fabsf(y[1][i]) : largest;
    }
    return most / largest;
}

int main(void) {
    static const int rows[] = {1, 2, 3, 4, 5, 8, 13, MOST_ROWS};
    for (const Kernels *const *set = usable_kernels(); *set; set++) {
        for (int number = 0; number < (*set)->num_formats; number++) {
            const Format *format = &(*set)->formats[number];
            int elements = format->elements > 32 ? format->elements : 32;
            float most = 0;
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                for (int ins = elements; ins <= 1024 + elements && ins <= 1088; ins += 512 / elements * elements) {
                    float wrong = difference(*set, number, rows[i], ins, 1 + (int)i % 2);
                    most = wrong > most || isnan(wrong) ? wrong : most;
                }
            printf("%s %s %.1e\n", (*set)->name, format->name, (double)most);
        }
    }
    return 0;
}
