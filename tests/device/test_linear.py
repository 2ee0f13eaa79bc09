"""Packed linear layers agree with torch's `linear`, whichever library multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from neuron.models.formats import floats
from neuron.models.formats.floats import activation_dtype
from neuron.models.linear import pack_linear
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import save

CPU = torch.device("cpu")
BEYOND_HALF = 1e6
CASES = [
    (dtype, scale)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for scale in (1.0, 1e-3, BEYOND_HALF)
    if (dtype, scale) != (torch.float16, BEYOND_HALF)
]


def layers(dtype: torch.dtype, *, bias: bool, scale: float = 1.0) -> list[torch.nn.Linear]:
    torch.manual_seed(3)
    made = [torch.nn.Linear(48, out, bias=bias) for out in (32, 16, 16)]
    for layer in made:
        layer.weight.data *= scale
    return [layer.to(dtype).requires_grad_(requires_grad=False) for layer in made]


@pytest.fixture(params=range(4), ids=["as here", "without ext", "nor oneDNN", "nor FBGEMM"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_uses_ext", "_uses_onednn", "_uses_fbgemm")[: request.param]:
        monkeypatch.setattr(floats, name, lambda *_: False)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("dtype", "scale"), CASES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("copied", [0, 8 << 20])
def test_a_packed_linear_equals_the_linears_it_replaces(
    dtype: torch.dtype, scale: float, bias: bool, copied: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("neuron.models.linear._COPIED_BYTES", copied)  # 0: each has a product of its own
    modules = layers(dtype, bias=bias, scale=scale)
    x = torch.randn(5, 48).to(dtype).to(activation_dtype(CPU, dtype))
    wanted = torch.cat([exactly(module, x) for module in modules], -1)
    fused = pack_linear(modules)
    assert fused.in_features == 48
    assert all(module.weight is None and module.bias is None for module in modules)
    for rows in (1, 5):
        found = fused(x[:rows])
        assert found.dtype == x.dtype
        rough = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
        near = rough * wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted[:rows], rtol=rough, atol=near)


def exactly(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(x.double(), module.weight.double(), None if module.bias is None else module.bias.double())


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_texts_are_nearly_equal_with_every_library(dtype: str, tmp_path: Path):
    """Rounding differs, so nearly all texts begin alike, not all."""
    path = save(tmp_path, "qwen3")
    prompts = {number: prompt(number, 12 + number) for number in range(24)}
    ours, general = (
        texts(decoder(path, dtype, fused=fused), prompts, max_tokens=3) for fused in (True, False)
    )
    assert sum(ours[number] == general[number] for number in prompts) >= 18
