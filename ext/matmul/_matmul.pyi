# Addresses are of contiguous memory, 0 for what is not there. `x`, `bias` and `y` are float32, (rows, ins),
# (matrices, outs) and (rows, outs); `ends`, int32, has the end of each matrix's rows, 0 of the only one's.

def instruction_sets() -> list[str]: ...  # that this build has and this CPU runs, the best one first
def formats() -> list[tuple[str, int, int]]: ...  # names, weights of a block, and its bytes
def record() -> None: ...  # what this thread calls from here on
def recorded() -> object: ...  # what was called since, for `replay`; ends the recording
def replay(program: object, /) -> None: ...
def multiply(  # writes y
    instruction_set: int,
    kind: int,
    x: int,
    rows: int,
    ins: int,
    blocks: int,
    scales: int,
    zeros: int,
    outs: int,
    group: int,
    bias: int,
    y: int,
    y_stride: int,  # numbers from row to row
    threads: int,
    ends: int,
    matrices: int,
    /,
) -> None: ...
def step_delta_rule(  # changes states and tails, and writes out
    instruction_set: int,
    rows: int,
    width: int,
    key_heads: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    kernel: int,
    slots: int,
    states: int,
    tails: int,
    stored: int,  # 0 float32, 1 bfloat16
    inputs: int,
    convolution: int,
    rate: int,
    rate_bias: int,
    most: int,  # the bits of a float32
    norm: int,
    eps: int,  # the bits of a float32
    out: int,
    threads: int,
    /,
) -> None: ...
def attend(  # writes out
    instruction_set: int,
    stored: int,  # 0 float32, 1 bfloat16, 2 float16
    rows: int,
    width: int,
    heads: int,
    key_heads: int,
    key_dim: int,
    value_dim: int,
    query: int,
    query_stride: int,
    keys: int,
    values: int,
    page_size: int,
    pages: int,
    pages_per_row: int,
    ends: int,
    window: int,
    scale: int,  # the bits of a float32
    sinks: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def attend_whole(  # writes out; query, keys, values and out are bfloat16
    instruction_set: int,
    heads: int,
    rows: int,
    tokens: int,
    key_dim: int,
    value_dim: int,
    query: int,
    query_head_stride: int,
    query_stride: int,
    keys: int,
    key_head_stride: int,
    key_stride: int,
    values: int,
    value_head_stride: int,
    value_stride: int,
    scale: int,  # the bits of a float32
    out: int,
    threads: int,
    /,
) -> None: ...
def gelu(  # writes out
    instruction_set: int,
    stored: int,  # 0 float32, 1 bfloat16
    count: int,
    x: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def silu_gate(  # writes out
    instruction_set: int, rows: int, width: int, gate_up: int, out: int, threads: int, /
) -> None: ...
def norm(  # writes out, which may be x
    instruction_set: int,
    rows: int,
    dim: int,
    x: int,
    stride: int,  # numbers from row to row
    weight: int,
    eps: int,
    out: int,
    out_stride: int,
    threads: int,
    /,
) -> None: ...
def convolve(  # changes tails, and writes out
    instruction_set: int,
    rows: int,
    dim: int,
    kernel: int,
    slots: int,
    tails: int,
    stored: int,  # 0 float32, 1 bfloat16
    inputs: int,
    weights: int,
    bias: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def rotate(  # changes x
    instruction_set: int,
    rows: int,
    heads: int,
    dim: int,
    rotated: int,
    x: int,
    stride: int,
    norm: int,
    eps: int,
    cos: int,
    sin: int,
    stored: int,
    threads: int,
    /,
) -> None: ...
def store(  # writes to the pool
    instruction_set: int,
    rows: int,
    dim: int,
    x: int,
    stride: int,
    places: int,
    pool: int,
    stored: int,  # 0 float32, 1 bfloat16
    /,
) -> None: ...
def locate(  # writes pages, ends and places
    rows: int,
    pages_per_slot: int,
    page_size: int,
    slots: int,
    positions: int,
    table: int,
    pages: int,
    ends: int,
    places: int,
    /,
) -> None: ...
def add(x: int, count: int, to: int, /) -> None: ...  # to += x
def sigmoid_gate(  # multiplies x by the sigmoid of the gate
    instruction_set: int, rows: int, dim: int, gate: int, stride: int, x: int, threads: int, /
) -> None: ...
def largest(  # writes the place of each row's largest number, -1 for one with NaN
    instruction_set: int, rows: int, dim: int, x: int, places: int, threads: int, /
) -> None: ...
def scale_by_sigmoid(rows: int, dim: int, gates: int, x: int, /) -> None: ...  # changes x
def clamped_gate(  # writes out
    instruction_set: int,
    rows: int,
    width: int,
    gate_up: int,
    alpha: int,  # the bits of a float32
    limit: int,  # the bits of a float32
    out: int,
    threads: int,
    /,
) -> None: ...
def choose_experts(  # writes places and weights
    instruction_set: int,
    rows: int,
    experts: int,
    chosen: int,
    logits: int,
    scores: int,  # 0 softmax of all, 1 sigmoids, 2 softmax of the chosen
    bias: int,
    groups: int,
    kept: int,
    best: int,
    is_normed: int,
    eps: int,  # the bits of a float32
    factor: int,
    places: int,
    weights: int,
    threads: int,
    /,
) -> None: ...
def group_rows(  # writes ends, experts, sources and spots
    rows: int,
    chosen: int,
    num_experts: int,
    first: int,  # of those that are here
    places: int,
    ends: int,
    experts: int,
    sources: int,
    spots: int,
    /,
) -> None: ...
def gather_rows(  # writes out
    instruction_set: int,
    rows: int,
    dim: int,
    x: int,
    stored: int,  # 0 float32, 1 bfloat16, 2 float16
    sources: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def unpack_rows(  # writes out
    instruction_set: int,
    number: int,  # of the format
    rows: int,
    dim: int,
    blocks: int,
    rounded: int,  # to 0 float32, 1 bfloat16
    sources: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def weighted_sum(  # writes out
    instruction_set: int,
    rows: int,
    chosen: int,
    dim: int,
    x: int,
    spots: int,
    weights: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def run(operation: int, first: int, second: int, third: int, /) -> None: ...  # one of another module
