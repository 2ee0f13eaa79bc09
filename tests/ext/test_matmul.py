"""Products of stored matrices, on every instruction set of this CPU, against float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ext import matmul

native = matmul.load()
if native is None:
    pytest.skip("ext.matmul is not built", allow_module_level=True)

SETS = list(enumerate(native.instruction_sets()))
NUMBERS = {name: number for number, (name, *_) in enumerate(native.formats())}
TOLERANCE = {"f32": 1e-6, "f16": 1e-6, "bf16": 5e-3, "q8_0": 1e-2, "q4_0": 1e-2}  # of the result's spread


def encode(name: str, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Stored weights, and what they stand for."""
    if name in {"f32", "f16", "bf16"}:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name]
        return weights.to(dtype), weights.to(dtype).double()
    blocks = weights.unflatten(-1, (-1, 32))
    most = {"q8_0": 127, "q4_0": 7}[name]
    scale = (blocks.abs().amax(-1, keepdim=True) / most).half()
    codes = (blocks / scale.float()).round().clamp(-most, most).to(torch.int8)
    exact = (codes.double() * scale.double()).flatten(-2)
    if name == "q4_0":
        low, high = (codes + 8).to(torch.uint8).chunk(2, -1)
        codes = (low | high << 4).view(torch.int8)
    stored = torch.cat([scale.view(torch.int8), codes], -1)
    return stored.flatten(-2).view(torch.uint8), exact


@dataclass
class Case:
    name: str
    blocks: Tensor  # (matrices, outs, …)
    exact: Tensor
    bias: Tensor | None

    def multiply(self, chosen: int, x: Tensor, ends: Tensor | None = None, threads: int = 2) -> Tensor:
        """The product; behind it in memory nothing is written."""
        rows, ins = x.shape
        outs = self.exact.shape[-2]
        y = torch.full((rows * outs + 8,), torch.nan)
        native.multiply(
            chosen,
            NUMBERS[self.name],
            x.data_ptr(),
            rows,
            ins,
            self.blocks.data_ptr(),
            0,
            0,
            outs,
            0,
            0 if self.bias is None else self.bias.data_ptr(),
            y.data_ptr(),
            outs,
            threads,
            0 if ends is None else ends.data_ptr(),
            len(self.exact),
        )
        assert y[rows * outs :].isnan().all()
        return y[: rows * outs].view(rows, outs)


def case(name: str, ins: int, outs: int, *, matrices: int = 1, bias: bool = False) -> Case:
    weights = torch.randn(matrices, outs, ins, generator=torch.Generator().manual_seed(ins + outs))
    return Case(name, *encode(name, weights), torch.randn(matrices, outs) if bias else None)


def assert_near(name: str, found: Tensor, wanted: Tensor):
    spread = wanted.std().item()
    assert (found - wanted).square().mean().sqrt().item() < TOLERANCE[name] * spread


def sizes(name: str) -> list[tuple[int, int]]:
    """Inputs and outputs: what is left over by vectors, tiles and pieces."""
    odd = [] if name.startswith("q") else [(1, 3), (37, 5), (1029, 25)]
    return [(32, 1), (96, 7), (2080, 49), (1024, 300), *odd]


@pytest.mark.parametrize(("number", "instruction_set"), SETS)
@pytest.mark.parametrize("name", TOLERANCE)
def test_a_product_is_float64s(name: str, number: int, instruction_set: str):
    assert instruction_set
    for ins, outs in sizes(name):
        one = case(name, ins, outs, bias=outs != 7)
        for rows in (1, 2, 3, 5, 16, 31, 65):
            x = torch.randn(rows, ins)
            wanted = x.double() @ one.exact[0].T + (0 if one.bias is None else one.bias[0].double())
            if wanted.numel() > 100:
                assert_near(name, one.multiply(number, x), wanted)
            near = 30 * TOLERANCE[name] * ins**0.5
            torch.testing.assert_close(one.multiply(number, x).double(), wanted, rtol=0, atol=near)


@pytest.mark.parametrize(("number", "instruction_set"), SETS)
@pytest.mark.parametrize("name", TOLERANCE)
def test_rows_are_multiplied_by_their_own_matrix(name: str, number: int, instruction_set: str):
    assert instruction_set
    many = case(name, 96, 50, matrices=5, bias=True)
    x = torch.randn(40, 96)
    ends = torch.tensor([0, 1, 1, 30, 40], dtype=torch.int32)
    found = many.multiply(number, x, ends)
    start = 0
    for matrix, end in enumerate(ends.tolist()):
        wanted = x[start:end].double() @ many.exact[matrix].T + many.bias[matrix].double()
        if end > start:
            assert_near(name, found[start:end], wanted)
        start = end


@pytest.mark.parametrize("name", TOLERANCE)
def test_any_number_of_threads_gives_the_same(name: str):
    one = case(name, 512, 1500)
    for rows in (1, 2, 9, 70):
        x = torch.randn(rows, 512)
        wanted = one.multiply(0, x, threads=1)
        for threads in (2, 3, 7, 1):
            assert torch.equal(one.multiply(0, x, threads=threads), wanted)


@pytest.mark.parametrize(("number", "instruction_set"), SETS)
@pytest.mark.parametrize("name", TOLERANCE)
def test_what_is_no_number_stays_none(name: str, number: int, instruction_set: str):
    """An input that is NaN or infinite must not become text."""
    assert instruction_set
    one = case(name, 64, 6)
    for value in (float("nan"), float("inf")):
        x = torch.randn(2, 64)
        x[1, 7] = value
        found = one.multiply(number, x)
        assert found[0].isfinite().all()
        assert not found[1].isfinite().any()


def test_nothing_is_written_for_no_rows():
    assert case("f32", 8, 8).multiply(0, torch.empty(0, 8)).shape == (0, 8)


def test_a_forked_process_has_threads_of_its_own():
    import os

    one = case("q8_0", 256, 500)
    x = torch.randn(4, 256)
    wanted = one.multiply(0, x)
    pid = os.fork()
    if not pid:
        os._exit(0 if torch.equal(one.multiply(0, x), wanted) else 1)
    assert os.waitpid(pid, 0)[1] == 0
