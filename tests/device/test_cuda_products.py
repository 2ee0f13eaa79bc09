"""Products with stored weights and attention to codes on CUDA, as far as they can be tested without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuron.models import private
from neuron.models.cuda import products, torch_products
from neuron.models.cuda.candidate import Candidate
from neuron.models.cuda.ranking import ROWS, rank
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Groups, Matrix

ROOT = Path(__file__).parents[2]


def run(module: str, **environment: str) -> list[Any]:
    """What a program prints in lines of JSON. How a kernel is run is chosen before Triton is imported."""
    program = [sys.executable, "-m", f"tests.device.{module}"]
    done = subprocess.run(
        program, env=os.environ | environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert not done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_kernels_are_right_in_tritons_interpreter():
    pytest.importorskip("triton")
    from neuron.models.cuda.unpacking import UNPACKING

    found = run("triton_checks", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert {case.partition(",")[0].partition(" ")[0] for case, _ in found} > UNPACKING.keys()
    assert [(case, off) for case, off in found if not off < 1] == []


def test_the_kernels_compile_for_gpus(tmp_path: Path):
    """What the interpreter lets pass: types that change in a loop, layouts, what a GPU does not know."""
    pytest.importorskip("triton")
    found = run("triton_compiling", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) > 4
    assert all(kilobytes <= 96 for _, kilobytes in found), "what a program may share on every GPU"


def test_without_triton_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("launch", "kernel", "unpacking"):
        monkeypatch.delitem(sys.modules, f"neuron.models.cuda.{name}", raising=False)
    products.find_kernel.cache_clear()
    monkeypatch.delattr("neuron.models.cuda.launch", raising=False)
    assert products.kernel_candidate(None) is None
    products.find_kernel.cache_clear()


def int4(*shape: int, columns: int = 256, group: int = 64, has_zeros: bool = True) -> Matrix:
    codes = torch.randint(0, 256, (*shape, columns // 2), dtype=torch.uint8)
    scales = torch.rand(*shape, columns // group)
    zeros = [torch.randint(0, 16, scales.shape, dtype=torch.uint8)] if has_zeros else []
    return Matrix(ScaledCodes("int4", group, has_zeros), (codes, scales, *zeros), torch.randn(shape), columns)


def fp8(*shape: int, columns: int = 256) -> Matrix:
    codes = torch.randn(*shape, columns).to(torch.float8_e4m3fn).view(torch.uint8)
    return Matrix(ScaledCodes("fp8", columns), (codes, torch.rand(*shape, 1)), torch.randn(shape), columns)


def off(found: Tensor, wanted: Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


def build(name: str, matrix: Matrix) -> Callable[..., Tensor]:
    known = (*torch_products.PRODUCTS, *torch_products.GROUPED_PRODUCTS)
    candidate = next(candidate for candidate in known if candidate.name == name)
    assert candidate.suits(matrix)
    return candidate.build(matrix)


def test_scaled_mm_multiplies_by_codes_with_a_scale_for_each_output():
    matrix, x = fp8(32), torch.randn(5, 256).bfloat16()
    found = build("_scaled_mm", matrix)(x)
    assert found.dtype is torch.bfloat16
    assert off(found, dequantized_product(matrix)(x.float())) < 0.05


def test_scaled_grouped_mm_multiplies_by_each_rows_expert(monkeypatch: pytest.MonkeyPatch):
    """The operation is CUDA's alone; this does what it documents by `_scaled_mm`."""

    def one_by_one(x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, ends: Tensor) -> Tensor:
        sizes = ends.diff(prepend=torch.zeros(1, dtype=torch.int32)).tolist()
        parts = zip(x.split(sizes), x_scale[:, None].split(sizes), weight, scale[:, None], strict=True)
        return torch.cat([private.scaled_mm(rows, w, s, t) for rows, s, w, t in parts if len(rows)])

    monkeypatch.setattr(private, "scaled_grouped_mm", one_by_one)
    matrix, x, experts = fp8(4, 32), torch.randn(6, 256), torch.tensor([0, 0, 2, 3, 3, 3])
    found = build("_scaled_grouped_mm", matrix)(x, Groups(experts, 4))
    assert matrix.bias is not None
    rows = zip(x.split(1), experts, strict=True)
    wanted = torch.cat([dequantized_product(matrix[int(expert)])(row) for row, expert in rows])
    assert off(found, wanted) < 0.05


@pytest.mark.parametrize("has_zeros", [False, True])
def test_int4pack_mm_gets_codes_and_zeros_as_it_documents_them(
    has_zeros: bool, monkeypatch: pytest.MonkeyPatch
):
    """The operation is CUDA's alone; packing keeps the codes here."""

    def multiply(x: Tensor, codes: Tensor, group: int, pairs: Tensor) -> Tensor:
        values = torch.stack([codes >> 4, codes & 15], -1).flatten(-2).float() - 8
        scale, zero = pairs.float().transpose(0, 1).repeat_interleave(group, 1).unbind(-1)
        return (x.float() @ (values * scale + zero).T).bfloat16()

    monkeypatch.setattr(private, "pack_int4", lambda codes: codes)
    monkeypatch.setattr(private, "int4_mm", multiply)
    matrix, x = int4(32, has_zeros=has_zeros), torch.randn(3, 256)
    assert off(build("_weight_int4pack_mm", matrix)(x), dequantized_product(matrix)(x)) < 0.02


@pytest.mark.parametrize(
    "matrix", [int4(32, columns=192), int4(30), int4(32, group=16), fp8(30), fp8(32, columns=200)]
)
def test_shapes_that_torchs_operations_refuse_are_not_given_to_them(matrix: Matrix):
    assert not any(candidate.suits(matrix) for candidate in torch_products.PRODUCTS)


# --- the ranking ------------------------------------------------------------------------------------------


def candidate(name: str, change: Callable[[Tensor], Tensor] = torch.clone, **options: bool) -> Candidate:
    def build(matrix: Matrix) -> Callable[[Tensor], Tensor]:
        multiply = dequantized_product(matrix)

        def product(x: Tensor) -> Tensor:
            calls.append((name, len(x)))
            return change(multiply(x))

        return product

    return Candidate(name, lambda _: True, build, **options)


calls: list[tuple[str, int]] = []


def ranking(*candidates: Candidate, seconds: dict[str, tuple[float, ...]]) -> dict[int, list[str]]:
    def measure(call: Callable[[], Tensor]) -> float:
        call()
        name, rows = calls[-1]
        return seconds[name][ROWS.index(rows)]

    found = rank(candidates, int4(16), measure)
    return {rows: [each.name for each in ranked] for rows, ranked in found.items()}


def test_few_and_many_rows_have_a_winner_each():
    found = ranking(candidate("a"), candidate("b"), seconds={"a": (1, 2, 9), "b": (2, 1, 8)})
    assert found == {1: ["a", "b"], 16: ["b", "a"], 512: ["b", "a"]}


def test_candidates_that_fail_or_disagree_are_left_out():
    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("no kernel for this device")

    wrong = candidate("wrong", lambda out: out * 1.2)
    seconds = {"failing": (0,) * 3, "wrong": (0,) * 3, "right": (1,) * 3}
    found = ranking(candidate("failing", fail), wrong, candidate("right"), seconds=seconds)
    assert list(found.values()) == [["right"]] * 3


@pytest.mark.parametrize(("speed", "first"), [(0.5, "packed"), (0.95, "plain")])
def test_weights_are_packed_only_where_all_rows_gain_by_it(speed: float, first: str):
    packed = candidate("packed", is_packed=True)
    found = ranking(candidate("plain"), packed, seconds={"plain": (1,) * 3, "packed": (speed,) * 3})
    assert {ranked[0] for ranked in found.values()} == {first}


def test_trials_are_of_the_matrixs_own_rows():
    matrix = int4(3)
    trial = products.trial_like(matrix, 64 * 200)
    assert trial.shape == (64, 256)
    assert torch.equal(trial.dequantize(torch.float32)[3:6], matrix.dequantize(torch.float32))
    assert products.trial_like(int4(20, 4)).shape == (8, 4, 256)
