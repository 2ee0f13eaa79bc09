"""Compiles the Triton kernels for GPUs that need not be here: python -m tests.device.triton_compiling

Prints a line of JSON for each: its name, and the KiB that a program shares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neuron.device.cuda.paged_kernel import paged_kernel
from neuron.models.cuda.kernel import product_kernel
from neuron.models.cuda.launch import Tiles
from neuron.models.cuda.unpacking import UNPACKING

CAPABILITIES = (80, 90)
PRODUCTS = (("q4_k", 1, False), ("mxfp4", 2, True), ("int4", 32, False), ("fp8", 512, False))


def compile_for(
    capability: int, kernel: Any, kinds: dict[str, str], constants: dict[str, Any], warps: int
) -> int:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    places = {name: (names.index(name),) for name in names}
    pointers = [name for name in names if signature[name].startswith("*")]
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name in pointers},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).metadata.shared // 1024


def product(capability: int, name: str, rows: int, *, is_grouped: bool) -> int:
    unpacking, tiles = UNPACKING[name], Tiles.of(rows)
    kinds = {"x": "*bf16", "blocks": "*u8", "scales": "*fp32", "zeros": "*u8", "bias": "*bf16"}
    kinds |= {"sums": "*bf16", "ends": "*i32"}
    constants = {
        "unpack": unpacking.function,
        "UNIT_BYTES": unpacking.bytes,
        "PARTS": unpacking.parts,
        "EXPERTS": 32,
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_OUTPUTS": tiles.outputs,
        "BLOCK_UNITS": max(1, tiles.bytes // unpacking.bytes),
        "SPLITS": 1,
        "table": None,
    }
    has_scales = name in {"int4", "fp8"}
    constants |= {} if has_scales else {"scales": None}
    constants |= {} if name == "int4" else {"zeros": None}
    constants |= {} if is_grouped else {"ends": None}
    return compile_for(capability, product_kernel, kinds, constants, tiles.warps)


def attention(capability: int, rows: int, *, is_float: bool, splits: int) -> int:
    scales = dict.fromkeys(("key_scales", "value_scales", "query"), "*bf16")
    sums = dict.fromkeys(("sums", "weights", "peaks"), "*fp32")
    places = dict.fromkeys(("starts", "lengths", "table"), "*i32")
    kinds = scales | sums | places | {"keys": "*u8", "values": "*u8", "scale": "fp32"}
    dims = dict.fromkeys(("KEY_DIM", "VALUE_DIM", "BLOCK_KEY", "BLOCK_VALUE"), 128)
    sizes = {"HEADS": 32, "KV_HEADS": 8, "PAGE": 16, "BLOCK_TOKENS": 32}
    constants = dims | sizes | {"IS_FLOAT": is_float, "BLOCK_ROWS": rows, "SPLITS": splits}
    return compile_for(capability, paged_kernel, kinds, constants, 4)


def cases() -> Iterator[tuple[str, int]]:
    for capability, (name, rows, is_grouped) in zip(CAPABILITIES * 2, PRODUCTS, strict=True):
        yield f"{name}, {rows} rows, {capability}", product(capability, name, rows, is_grouped=is_grouped)
    yield "one token's attention", attention(80, 16, is_float=True, splits=16)
    yield "a prompt's attention", attention(90, 64, is_float=False, splits=1)


if __name__ == "__main__":
    for case in cases():
        print(json.dumps(case))  # noqa: T201
