# Addresses are of contiguous memory, 0 for what is not there. `x`, `bias` and `y` are float32, (rows, ins),
# (matrices, outs) and (rows, outs); `ends`, int32, has the end of each matrix's rows, 0 of the only one's.

def instruction_sets() -> list[str]: ...  # that this build has and this CPU runs, the best one first
def formats() -> list[tuple[str, int, int]]: ...  # names, weights of a block, and its bytes
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
    threads: int,
    ends: int,
    matrices: int,
    /,
) -> None: ...
def step_delta_rule(  # changes states, and writes what queries read
    instruction_set: int,
    rows: int,
    key_heads: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    states: int,
    query: int,
    query_stride: int,
    key: int,
    key_stride: int,
    value: int,
    value_stride: int,
    log_decay: int,
    strength: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def attend(  # writes out
    instruction_set: int,
    stored: int,  # 0 float32, 1 bfloat16, 2 float16
    rows: int,
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
    out: int,
    threads: int,
    /,
) -> None: ...
def silu_gate(  # writes out
    instruction_set: int, rows: int, width: int, gate_up: int, out: int, threads: int, /
) -> None: ...
