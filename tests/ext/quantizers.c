/* Prints a line for each quantizer: its name, and a sum of all bytes that it makes of drawn numbers, which every
 * processor has to make alike. It is built for other CPUs than the tests run on: see test_aarch64.py. */
#include "quantize.c"

#include <stdio.h>

enum { COUNT = 512 * 97, WIDTH = 97 };

static uint8_t values[COUNT * 4], made[COUNT], zeros[COUNT];
static float scales[COUNT];

/* Numbers of many sizes, none of which is infinite. */
static void draw(uint32_t seed) {
    for (size_t i = 0; i < sizeof values; i++) {
        seed = seed * 1664525 + 1013904223;
        values[i] = (uint8_t)(seed >> 24);
        if (i % 2) values[i] = (uint8_t)((values[i] & 0x83) | 0x3c);
    }
}

static void print_sum(const char *name, int is_finite) {
    uint64_t sum = 14695981039346656037u; /* FNV-1a */
    const uint8_t *parts[] = {made, zeros, (const uint8_t *)scales};
    const size_t sizes[] = {sizeof made, sizeof zeros, sizeof scales};
    for (int part = 0; part < 3; part++)
        for (size_t i = 0; i < sizes[part]; i++) sum = (sum ^ parts[part][i]) * 1099511628211u;
    printf("%s %d %016llx\n", name, is_finite, (unsigned long long)sum);
}

int main(void) {
    for (int kind = FLOAT32; kind <= BFLOAT16; kind++) {
        draw(1 + kind);
        print_sum("q8_0", q8_0(values, kind, COUNT / 2, made));
        print_sum("q4_k", q4_k(values, kind, COUNT, made));
        print_sum("int4_32", int4(values, kind, COUNT, 32, made, scales, zeros));
        print_sum("int4_128", int4(values, kind, COUNT, 128, made, scales, zeros));
        print_sum("fp8", fp8(values, kind, COUNT, WIDTH, made, scales));
    }
    return 0;
}
