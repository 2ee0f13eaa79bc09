"""What is done row by row in C is what torch's operations do."""

from __future__ import annotations

import pytest
import torch

from ext import matmul
from neuron.device import row_steps
from neuron.models.fused.norm import RmsNorm
from neuron.models.fused.rotation import Rotation

NATIVE = matmul.load()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="ext.matmul is not built")
SETS = NATIVE.instruction_sets() if NATIVE else []
EPS = torch.tensor(1e-6)


@pytest.fixture(params=SETS, autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setattr(matmul, "instruction_set", lambda: SETS.index(request.param))


# The last is divided among threads.
@pytest.mark.parametrize("shape", [(1, 1), (3, 21), (2, 4, 64), (500, 400)])
def test_norms(shape: tuple[int, ...]):
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    wanted = torch.nn.functional.rms_norm(x, shape[-1:], weight, EPS.item())
    torch.testing.assert_close(row_steps.norm(x, weight, EPS), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize(("dim", "rotated"), [(64, 64), (64, 16), (20, 12), (16, 0)])
def test_heads_are_normed_rotated_and_rounded(dim: int, rotated: int, has_norm: bool, dtype: torch.dtype):
    qkv = torch.randn(5, 7, dim)
    heads, others = qkv[:, :4], qkv[:, 4:].clone()
    weight = torch.randn(4, dim) if has_norm else None
    angles = Rotation(torch.randn(5, 1, rotated), torch.randn(5, 1, rotated)) if rotated else None
    wanted = heads.clone()
    if weight is not None:
        wanted = RmsNorm(weight, EPS, torch.float32)(wanted)
    if angles:
        wanted = angles(wanted)
    row_steps.rotate(heads, weight, EPS, angles, dtype)
    exact = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 8e-3, "atol": 1e-5}
    torch.testing.assert_close(heads, wanted, **exact)
    assert torch.equal(heads, heads.to(dtype).float())
    assert torch.equal(qkv[:, 4:], others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_stored_where_they_belong(dtype: torch.dtype):
    pool = torch.zeros(3, 4, 2, 8, dtype=dtype)
    x = torch.randn(2, 5, 8)[:, 1:3]
    x[0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    row_steps.store(x, torch.tensor([9, 0]), pool)
    stored = pool.flatten(0, 1)
    torch.testing.assert_close(stored[[9, 0]], x.to(dtype), rtol=0, atol=0, equal_nan=True)
    assert not stored[1:9].any()
    assert not stored[10:].any()


def test_tokens_are_located():
    table = torch.arange(12).view(3, 4).flip(1)
    slots, positions = torch.tensor([2, 0]), torch.tensor([0, 13])
    outs = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros_like(slots)
    row_steps.locate(slots, positions, table, 4, outs)
    assert [x.tolist() for x in outs] == [[[11, 10, 9, 8], [3, 2, 1, 0]], [1, 14], [44, 1]]


def test_sums_and_gates():
    x, gates = torch.randn(3, 37), 9 * torch.randn(3, 80)
    gate = gates[:, 5:42]
    gate[0, :2] = torch.tensor([100.0, -100.0])
    wanted = x * gate.sigmoid()
    torch.testing.assert_close(row_steps.sigmoid_gate(x.clone(), gate), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(row_steps.add(x, wanted.clone()), wanted + x)


@pytest.mark.parametrize("dim", [1, 5, 16, 40, 5000])
def test_the_largest_number_of_a_row(dim: int):
    x = torch.randint(-3, 4, (9, dim)).float()
    x[0], x[1, -1], x[2] = float("-inf"), float("inf"), 0
    assert row_steps.largest(x) == [row.tolist().index(row.max()) for row in x]
    for place in {0, dim // 2, dim - 1}:
        x[3] = 1
        x[3, place] = float("nan")
        assert row_steps.largest(x)[3] == row_steps.largest(x.double())[3] == -1
        assert row_steps.largest(x)[4:] == row_steps.largest(x.double())[4:]


def test_what_is_not_float32_is_torchs():
    assert row_steps.runs_in_c(torch.zeros(1))
    assert not row_steps.runs_in_c(torch.zeros(1).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_rows_are_gathered_as_floats(dim: int, dtype: torch.dtype):
    x, rows = torch.randn(9, dim).to(dtype), torch.tensor([8, 0, 3, 3])
    x[8, -1] = float("inf")
    assert row_steps.can_gather(x)
    assert torch.equal(row_steps.gather(x, rows), x[rows].float())
    assert not row_steps.can_gather(x.long())
    assert not row_steps.can_gather(x.expand(2, 9, dim))
