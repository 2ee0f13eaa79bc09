#include "operations.h"

#include "attention_step.h"
#include "delta_step.h"
#include "experts_step.h"
#include "formats.h"
#include "product.h"
#include "row_steps.h"
#include "silu_gate_step.h"
#include "whole_attention_step.h"

/* Floats are passed as their bits. */
static float float_of(long long bits) {
    union { uint32_t bits; float value; } number = {.bits = (uint32_t)bits};
    return number.value;
}

static const Kernels *kernels_of(long long number) {
    static const Kernels *const *usable;
    if (!usable) usable = usable_kernels();
    return usable[number];
}

static int multiply(const long long *numbers) {
    int32_t rows = (int32_t)numbers[3];
    const int32_t *ends = (const int32_t *)numbers[14];
    Product of = {
        .format = (int)numbers[1],
        .x = (const float *)numbers[2],
        .rows = rows,
        .ins = (int)numbers[4],
        .parts = {(const uint8_t *)numbers[5], (const uint8_t *)numbers[6], (const uint8_t *)numbers[7]},
        .outs = (int)numbers[8],
        .group = (int)numbers[9],
        .bias = (const float *)numbers[10],
        .y = (float *)numbers[11],
        .y_stride = (size_t)numbers[12],
        .threads = (int)numbers[13],
        .ends = ends ? ends : &rows,
        .matrices = (int)numbers[15],
    };
    return product(kernels_of(numbers[0]), &of);
}

static Reading weights(const long long *numbers) {
    const Format *format = &kernels_of(numbers[0])->formats[numbers[1]];
    size_t row_bytes = (size_t)numbers[4] / format->elements * format->bytes;
    int is_one = !numbers[14]; /* of experts' matrices only some are read */
    return (Reading){(const void *)numbers[5], is_one ? row_bytes * (size_t)numbers[8] : 0};
}

static int step_delta_rule(const long long *numbers) {
    DeltaStep step = {
        .rows = (int)numbers[1],
        .width = (int)numbers[2],
        .key_heads = (int)numbers[3],
        .heads = (int)numbers[4],
        .key_dim = (int)numbers[5],
        .value_dim = (int)numbers[6],
        .kernel = (int)numbers[7],
        .slots = (const int64_t *)numbers[8],
        .states = (float *)numbers[9],
        .tails = (uint8_t *)numbers[10],
        .stored = (Stored)numbers[11],
        .inputs = (const float *)numbers[12],
        .convolution = (const float *)numbers[13],
        .rate = (const float *)numbers[14],
        .rate_bias = (const float *)numbers[15],
        .most = float_of(numbers[16]),
        .norm = (const float *)numbers[17],
        .eps = float_of(numbers[18]),
        .out = (float *)numbers[19],
        .threads = (int)numbers[20],
    };
    delta_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int attend(const long long *numbers) {
    AttentionStep step = {
        .stored = (Stored)numbers[1],
        .rows = (int)numbers[2],
        .width = (int)numbers[3],
        .heads = (int)numbers[4],
        .key_heads = (int)numbers[5],
        .key_dim = (int)numbers[6],
        .value_dim = (int)numbers[7],
        .query = (const float *)numbers[8],
        .query_stride = (ptrdiff_t)numbers[9],
        .keys = (const uint8_t *)numbers[10],
        .values = (const uint8_t *)numbers[11],
        .page_size = (int)numbers[12],
        .pages = (const int64_t *)numbers[13],
        .pages_per_row = (int)numbers[14],
        .ends = (const int64_t *)numbers[15],
        .window = (int)numbers[16],
        .scale = float_of(numbers[17]),
        .sinks = (const float *)numbers[18],
        .out = (float *)numbers[19],
        .threads = (int)numbers[20],
    };
    attention_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int silu_gate(const long long *numbers) {
    SiluGateStep step = {
        .rows = (int)numbers[1],
        .width = (int)numbers[2],
        .gate_up = (const float *)numbers[3],
        .out = (float *)numbers[4],
        .threads = (int)numbers[5],
    };
    silu_gate_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int sigmoid_gate(const long long *numbers) {
    SigmoidGateStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .gate = (const float *)numbers[3],
        .stride = (ptrdiff_t)numbers[4],
        .x = (float *)numbers[5],
        .threads = (int)numbers[6],
    };
    sigmoid_gate_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int largest(const long long *numbers) {
    LargestStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .x = (const float *)numbers[3],
        .places = (int64_t *)numbers[4],
        .threads = (int)numbers[5],
    };
    largest_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int norm(const long long *numbers) {
    NormStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .x = (const float *)numbers[3],
        .stride = (ptrdiff_t)numbers[4],
        .weight = (const float *)numbers[5],
        .eps = *(const float *)numbers[6],
        .out = (float *)numbers[7],
        .out_stride = (ptrdiff_t)numbers[8],
        .threads = (int)numbers[9],
    };
    norm_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int rotate(const long long *numbers) {
    RotateStep step = {
        .rows = (int)numbers[1],
        .heads = (int)numbers[2],
        .dim = (int)numbers[3],
        .rotated = (int)numbers[4],
        .x = (float *)numbers[5],
        .stride = (ptrdiff_t)numbers[6],
        .norm = (const float *)numbers[7],
        .eps = numbers[8] ? *(const float *)numbers[8] : 0,
        .cos = (const float *)numbers[9],
        .sin = (const float *)numbers[10],
        .stored = (Stored)numbers[11],
        .threads = (int)numbers[12],
    };
    rotate_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int store(const long long *numbers) {
    StoreStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .x = (const float *)numbers[3],
        .stride = (ptrdiff_t)numbers[4],
        .places = (const int64_t *)numbers[5],
        .pool = (uint8_t *)numbers[6],
        .stored = (Stored)numbers[7],
    };
    store_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int locate(const long long *numbers) {
    LocateStep step = {
        .rows = (int)numbers[0],
        .pages_per_slot = (int)numbers[1],
        .page_size = (int)numbers[2],
        .slots = (const int64_t *)numbers[3],
        .positions = (const int64_t *)numbers[4],
        .table = (const int64_t *)numbers[5],
        .pages = (int64_t *)numbers[6],
        .ends = (int64_t *)numbers[7],
        .places = (int64_t *)numbers[8],
    };
    locate_step(&step);
    return 0;
}

static int add(const long long *numbers) {
    add_step((const float *)numbers[0], (size_t)numbers[1], (float *)numbers[2]);
    return 0;
}

static int clamped_gate(const long long *numbers) {
    ClampedGateStep step = {
        .rows = (int)numbers[1],
        .width = (int)numbers[2],
        .gate_up = (const float *)numbers[3],
        .alpha = float_of(numbers[4]),
        .limit = float_of(numbers[5]),
        .out = (float *)numbers[6],
        .threads = (int)numbers[7],
    };
    clamped_gate_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int scale_by_sigmoid(const long long *numbers) {
    scale_by_sigmoid_step((int)numbers[0], (int)numbers[1], (const float *)numbers[2], (float *)numbers[3]);
    return 0;
}

static int choose_experts(const long long *numbers) {
    ChoiceStep step = {
        .rows = (int)numbers[1],
        .experts = (int)numbers[2],
        .chosen = (int)numbers[3],
        .logits = (const float *)numbers[4],
        .scores = (Scores)numbers[5],
        .bias = (const float *)numbers[6],
        .groups = (int)numbers[7],
        .kept = (int)numbers[8],
        .best = (int)numbers[9],
        .is_normed = (int)numbers[10],
        .eps = float_of(numbers[11]),
        .factor = float_of(numbers[12]),
        .places = (int64_t *)numbers[13],
        .weights = (float *)numbers[14],
        .threads = (int)numbers[15],
    };
    choice_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int group_rows(const long long *numbers) {
    GroupStep step = {
        .rows = (int)numbers[0],
        .chosen = (int)numbers[1],
        .experts = (int)numbers[2],
        .first = (int)numbers[3],
        .places = (const int64_t *)numbers[4],
        .ends = (int32_t *)numbers[5],
        .sorted_experts = (int64_t *)numbers[6],
        .sources = (int64_t *)numbers[7],
        .spots = (int64_t *)numbers[8],
    };
    group_step(&step);
    return 0;
}

static int gather_rows(const long long *numbers) {
    GatherStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .x = (const uint8_t *)numbers[3],
        .stored = (Stored)numbers[4],
        .sources = (const int64_t *)numbers[5],
        .out = (float *)numbers[6],
        .threads = (int)numbers[7],
    };
    gather_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int unpack_rows(const long long *numbers) {
    UnpackStep step = {
        .format = (int)numbers[1],
        .rows = (int)numbers[2],
        .dim = (int)numbers[3],
        .blocks = (const uint8_t *)numbers[4],
        .rounded = (Stored)numbers[5],
        .sources = (const int64_t *)numbers[6],
        .out = (float *)numbers[7],
        .threads = (int)numbers[8],
    };
    unpack_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int weighted_sum(const long long *numbers) {
    SumStep step = {
        .rows = (int)numbers[1],
        .chosen = (int)numbers[2],
        .dim = (int)numbers[3],
        .x = (const float *)numbers[4],
        .spots = (const int64_t *)numbers[5],
        .weights = (const float *)numbers[6],
        .out = (float *)numbers[7],
        .threads = (int)numbers[8],
    };
    sum_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int convolve(const long long *numbers) {
    ConvolutionStep step = {
        .rows = (int)numbers[1],
        .dim = (int)numbers[2],
        .kernel = (int)numbers[3],
        .slots = (const int64_t *)numbers[4],
        .tails = (uint8_t *)numbers[5],
        .stored = (Stored)numbers[6],
        .inputs = (const float *)numbers[7],
        .weights = (const float *)numbers[8],
        .bias = (const float *)numbers[9],
        .out = (float *)numbers[10],
        .threads = (int)numbers[11],
    };
    convolution_step(kernels_of(numbers[0]), &step);
    return 0;
}

static int attend_whole(const long long *numbers) {
    WholeAttention step = {
        .heads = (int)numbers[1],
        .rows = (int)numbers[2],
        .tokens = (int)numbers[3],
        .key_dim = (int)numbers[4],
        .value_dim = (int)numbers[5],
        .query = (const uint16_t *)numbers[6],
        .query_strides = {(ptrdiff_t)numbers[7], (ptrdiff_t)numbers[8]},
        .keys = (const uint16_t *)numbers[9],
        .key_strides = {(ptrdiff_t)numbers[10], (ptrdiff_t)numbers[11]},
        .values = (const uint16_t *)numbers[12],
        .value_strides = {(ptrdiff_t)numbers[13], (ptrdiff_t)numbers[14]},
        .scale = float_of(numbers[15]),
        .out = (uint16_t *)numbers[16],
        .threads = (int)numbers[17],
    };
    return whole_attention_step(kernels_of(numbers[0]), &step);
}

static int gelu(const long long *numbers) {
    GeluStep step = {
        .stored = (Stored)numbers[1],
        .count = (int64_t)numbers[2],
        .x = (const uint8_t *)numbers[3],
        .out = (uint8_t *)numbers[4],
        .threads = (int)numbers[5],
    };
    gelu_step(kernels_of(numbers[0]), &step);
    return 0;
}

/* One of another module, by its address, with its arguments. */
static int run(const long long *numbers) { return ((Operation)(uintptr_t)numbers[0])(numbers + 1); }

const OperationRow operations[] = {
    {"multiply", multiply, 16, weights}, {"step_delta_rule", step_delta_rule, 21},
    {"attend", attend, 21},     {"silu_gate", silu_gate, 6},
    {"norm", norm, 10},          {"rotate", rotate, 13},
    {"store", store, 8},        {"locate", locate, 9},
    {"add", add, 3},            {"sigmoid_gate", sigmoid_gate, 7},
    {"largest", largest, 6},    {"clamped_gate", clamped_gate, 8},
    {"choose_experts", choose_experts, 16}, {"group_rows", group_rows, 9},
    {"gather_rows", gather_rows, 8}, {"weighted_sum", weighted_sum, 9},
    {"unpack_rows", unpack_rows, 9},
    {"scale_by_sigmoid", scale_by_sigmoid, 4}, {"run", run, 4},
    {"convolve", convolve, 12},  {"attend_whole", attend_whole, 18},
    {"gelu", gelu, 6},
};
const int num_operations = sizeof operations / sizeof *operations;
