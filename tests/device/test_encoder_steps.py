"""What encoders compute by C is what torch computes, on every instruction set of this CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from ext import matmul
from neuron.device import encoder_steps, pieces

NATIVE = matmul.load()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="ext.matmul is not built")
SETS = NATIVE.instruction_sets() if NATIVE else []


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matmul, "instruction_set", lambda: SETS.index(request.param))


def turned(count: int, tokens: int, heads: int, dim: int, *, factor: float = 1) -> Tensor:
    """Return numbers as a model has them: the heads of a token beside each other."""
    generator = torch.Generator().manual_seed(tokens + dim)
    made = factor * torch.randn(count, tokens, heads + 1, dim, generator=generator)
    return made.bfloat16()[:, :, :heads].transpose(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, pause: pieces.Pause = lambda: None
) -> Tensor:
    assert encoder_steps.attends_whole(query, key, value)
    told = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": scale}
    found: Tensor = pieces.in_pieces(scaled_dot_product_attention, (query, key, value), told, pause)
    return found


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(
    ("rows", "tokens", "dim", "value_dim"),
    [(128, 128, 64, 64), (1, 129, 2, 2), (200, 131, 72, 80), (7, 255, 256, 256), (97, 384, 96, 16)],
)
def test_it_is_torchs_attention(rows: int, tokens: int, dim: int, value_dim: int):
    query = turned(2, rows, 3, dim, factor=2)
    key, value = turned(2, tokens, 3, dim), turned(2, tokens, 3, value_dim)
    wanted = scaled_dot_product_attention(query.float(), key.float(), value.float(), scale=0.2)
    found = attend(query, key, value, 0.2)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("instruction_set")
def test_far_scores_leave_one_token():
    key = torch.zeros(1, 1, 200, 2, dtype=torch.bfloat16)
    key[..., 0] = torch.arange(200)
    value = torch.arange(200, dtype=torch.bfloat16).view(1, 1, 200, 1).expand(-1, -1, -1, 2).contiguous()
    for sign, wanted in ((100, 199), (-100, 0)):
        query = torch.full((1, 1, 3, 2), sign, dtype=torch.bfloat16)
        found = attend(query, key, value, 1.0).float()
        torch.testing.assert_close(found, torch.full_like(found, wanted))


def test_without_a_scale_it_is_that_of_the_dimensions_and_long_ones_pause(monkeypatch: pytest.MonkeyPatch):
    query, key, value = (turned(2, 150, 2, 16) for _ in range(3))
    wanted = scaled_dot_product_attention(query.float(), key.float(), value.float())
    pauses: list[int] = []
    monkeypatch.setattr(pieces, "MOST", 150 * 2 * 32 * 40)
    found = attend(query, key, value, pause=lambda: pauses.append(1))
    assert len(pauses) == 2 * 4 - 1
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


def test_what_it_does_not_compute_is_left_to_others():
    x = turned(1, 128, 2, 16)
    assert encoder_steps.attends_whole(x, x, x)
    assert not encoder_steps.attends_whole(x.float(), x.float(), x.float())
    assert not encoder_steps.attends_whole(x, x[:, :, :127], x[:, :, :127])
    assert not encoder_steps.attends_whole(x, x[:, :1], x[:, :1])
    assert not encoder_steps.attends_whole(*[x[..., :7]] * 3)
    assert not encoder_steps.attends_whole(*[turned(1, 128, 1, 258)] * 3)
    assert not encoder_steps.attends_whole(*[x.transpose(2, 3)] * 3)
    assert not encoder_steps.attends_whole(*[x[0]] * 3)
    hidden = torch.ones(128, 128, dtype=torch.bool).tril()
    for kwargs in ({"attn_mask": hidden}, {"is_causal": True}):
        found = pieces.in_pieces(scaled_dot_product_attention, (x, x, x), kwargs, lambda: None)
        assert torch.equal(found, scaled_dot_product_attention(x, x, x, **kwargs))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 17, 5 * 16384 + 3])
def test_it_is_torchs_gelu(dtype: torch.dtype, count: int):
    x = (4 * torch.randn(count, generator=torch.Generator().manual_seed(count))).to(dtype)
    x[0] = 1e30
    found = pieces.in_pieces(gelu, (x,), {"approximate": "tanh"}, lambda: None)
    wanted = gelu(x.double(), approximate="tanh").to(dtype)
    rounding = 1e-5 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=1e-6)


def test_the_exact_gelu_is_torchs():
    x = torch.linspace(-3, 3, 50)
    for kwargs in ({}, {"approximate": "none"}):
        assert torch.equal(pieces.in_pieces(gelu, (x,), kwargs, lambda: None), gelu(x))


def test_sums_of_turned_tensors_lie_in_a_row():
    x = torch.randn(2, 3, 5).transpose(1, 2)
    for function in (torch.add, Tensor.add):
        found = pieces.in_pieces(function, (x, x[:1]), {}, lambda: None)
        assert found.is_contiguous()
        assert torch.equal(found, x + x[:1])
