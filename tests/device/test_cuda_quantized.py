"""`pytest -m gpu`: quantized checkpoints give the texts of their numbers on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("compressed_tensors")

from tests.device.quantized import quantize
from tests.device.serving import decoder, prompt, texts
from tests.device.stored import multiply_plainly
from tests.device.test_quantized_checkpoints import CASES
from tests.device.zoo import save

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["w4a16 zeros", "gptq act-order", "fp8 blocks", "nvfp4", "bitsandbytes nf4"])
def test_texts_equal_those_of_the_numbers(
    name: str, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    multiply_plainly(monkeypatch)
    model = save(tmp_path / "model", "qwen3_moe", moe_intermediate_size=64)
    stored, plain = quantize(model, tmp_path, *CASES[name])
    prompts = {length: prompt(length, length) for length in (3, 21)}
    found, wanted = (texts(decoder(each, device="cuda:0", fused=fused), prompts) for each in (stored, plain))
    assert found == wanted
