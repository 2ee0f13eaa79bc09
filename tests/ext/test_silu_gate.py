"""The activation of gated MLPs in C, on every instruction set of this CPU."""

from __future__ import annotations

import pytest
import torch

from ext import matmul

_native = matmul.load()
pytestmark = pytest.mark.skipif(_native is None, reason="ext was not built")
SETS = _native.instruction_sets() if _native else []


def gated(number: int, x: torch.Tensor, threads: int = 2) -> torch.Tensor:
    rows, width = len(x), x.shape[1] // 2
    out = torch.full((rows, width), float("nan"))
    _native.silu_gate(number, rows, width, x.data_ptr(), out.data_ptr(), threads)
    return out


@pytest.mark.parametrize("number", range(len(SETS)), ids=SETS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 7), (3, 16), (2, 2049), (16, 3072), (65, 33)])
def test_it_is_silu_of_the_gate_times_the_rest(number: int, rows: int, width: int):
    x = torch.randn(rows, 2 * width, generator=torch.Generator().manual_seed(rows)) * 4
    gate, up = x.double().chunk(2, -1)
    torch.testing.assert_close(
        gated(number, x), (torch.nn.functional.silu(gate) * up).float(), rtol=3e-6, atol=1e-6
    )


@pytest.mark.parametrize("number", range(len(SETS)), ids=SETS)
def test_it_holds_at_the_ends(number: int):
    gate = torch.tensor([0.0, -0.0, 100.0, -100.0, 3e38, -3e38, 1e-38, float("inf"), float("nan")] * 2)
    x = torch.cat([gate, torch.ones(18)])[None]
    found = gated(number, x)[0]
    wanted = torch.nn.functional.silu(gate)
    torch.testing.assert_close(found, wanted, rtol=3e-6, atol=1e-30, equal_nan=True)
