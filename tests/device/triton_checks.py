"""Results of the Triton kernels: TRITON_INTERPRET=1 python -m tests.device.triton_checks

Prints a line of JSON for each case: its name, and how far it is off what torch computes of dequantised
weights and decoded pages, as a part of what rounding may come to. Triton's interpreter is chosen before
Triton is imported, so this is a program. Of halves it multiplies float16 alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import AttentionParams
from neuron.device.batch import Batch
from neuron.device.cuda import coded_attention
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.page_pool import CODINGS, Coding
from neuron.device.sdpa import SdpaAttention
from neuron.device.varlen import find_coded_kernel, varlen_attention
from neuron.models.cuda import launch, products
from neuron.models.matrix import Groups, Matrix
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Joined, StepPlan
from tests.device.random_weights import BLOCK_FORMATS, CODES, stored_matrix

CPU = torch.device("cpu")
OUTPUTS, COLUMNS = 11, 768  # neither fills a tile


def cases() -> Iterator[tuple[str, float]]:
    torch.manual_seed(0)
    for name in (*BLOCK_FORMATS, *CODES):
        matrix = stored_matrix(name, OUTPUTS, COLUMNS)
        yield f"{name}, 1 row", off(matrix, torch.randn(1, COLUMNS))
        yield f"{name}, 3 rows", off(matrix, torch.randn(3, COLUMNS))
    some = ("q4_k", "mxfp4", "int4 with zeros", "fp8")
    for name in some:
        matrix = stored_matrix(name, 5, OUTPUTS, COLUMNS)
        yield f"{name}, experts", off_by_experts(matrix, torch.tensor([0, 0, 3, 4, 4]))
        experts = torch.tensor([1] * 19 + [3] + [4] * 3)
        yield f"{name}, experts with many rows", off_by_experts(matrix, experts)
    launch._multiprocessors = lambda _: 8  # columns are split
    for name in some:
        matrix = stored_matrix(name, OUTPUTS, COLUMNS)
        yield f"{name}, split", off(matrix, torch.randn(2, COLUMNS))
        yield f"{name}, float16", off(matrix, torch.randn(70, COLUMNS).half(), rounding=2**-11)
    yield "no rows", off(matrix, torch.randn(0, COLUMNS))
    coded_attention._SPLIT_TOKENS = 16
    for coding in CODINGS.values():
        for layer in (KVShape(2, 16, 16), KVShape(1, 40, 24)):
            yield f"attention to {coding.name}, {layer.key_dim}", attention_off(layer, coding)


def kernel(matrix: Matrix, *, is_grouped: bool = False) -> Any:
    candidate = products.kernel_candidate(matrix.format.table, is_grouped=is_grouped)
    assert candidate
    assert candidate.suits(matrix)
    return candidate.build(matrix)


def off(matrix: Matrix, x: Tensor, rounding: float = 1e-6) -> float:
    found = kernel(matrix)(x)
    assert found.dtype is x.dtype
    return difference(found, matrix.dequantize(torch.float64), matrix.bias, x) / rounding


def off_by_experts(matrix: Matrix, experts: Tensor) -> float:
    x = torch.randn(len(experts), COLUMNS)
    found = kernel(matrix, is_grouped=True)(x, Groups(experts, 5))
    assert matrix.bias is not None
    weights = [matrix[int(expert)].dequantize(torch.float64) for expert in experts]
    parts = zip(found.split(1), weights, matrix.bias[experts], x.split(1), strict=True)
    return max(difference(*part) for part in parts) / 1e-6


def attention_off(layer: KVShape, coding: Coding) -> float:
    """Of prompts, with a window and without one, and of the tokens after them."""
    shape = CacheShape(num_pages=12, page_size=16, num_slots=2, context=96)
    table = PageTable(shape, CPU)
    joined = Joined(0, Sampling(), (), (), tuple(range(6))), Joined(1, Sampling(), (), (), (7, 6))
    prompts = StepPlan((Chunk(0, (0,) * 70, 0), Chunk(1, (0,) * 5, 0)), joined)
    answers = StepPlan((Chunk(0, (0,), 70), Chunk(1, (0,), 5)))
    furthest = 0.0
    for window in (None, 20):
        params = AttentionParams(scale=layer.key_dim**-0.5, window=window)
        cache = KVCache({0: layer}, shape, dtype=torch.float32, device=CPU, coding=coding)
        for plan in (prompts, answers):
            table.update(plan)
            batch = Batch(plan, table, shape)
            size = plan.num_tokens, layer.kv_heads
            query = torch.randn(size[0], 3 * size[1], layer.key_dim)
            key, value = torch.randn(*size, layer.key_dim), torch.randn(*size, layer.value_dim)
            both = (
                varlen_attention(cache, table, plan, batch, find_coded_kernel()),
                SdpaAttention(cache, batch),
            )
            found, wanted = (attend(0, query, key, value, params=params) for attend in both)
            furthest = max(furthest, (found - wanted).abs().max().item())
    return furthest / 1e-5


def difference(found: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> float:
    assert bias is not None
    wanted = x.double() @ weight.T + bias
    most = x.double().abs() @ weight.T.abs() + bias.abs()
    return ((found - wanted).abs() / most).nan_to_num(nan=1e9).max().item() if len(x) else 0.0


if __name__ == "__main__":
    assert products.find_kernel() is launch
    for case in cases():
        print(json.dumps(case))  # noqa: T201
