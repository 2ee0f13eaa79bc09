from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from neuron.models.checkpoint import CONFIG, INDEX, WEIGHTS, ModelLoadError, read_checkpoint
from neuron.models.decoder import load_decoder, model_dtype
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import build, save


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def shard(path: Path) -> None:
    build("llama").save_pretrained(path, max_shard_size="100KB")


def test_progress_grows_to_one(llama: Path):
    seen: list[float] = []
    checkpoint = read_checkpoint(llama)
    load_decoder(checkpoint, dtype=torch.float32, device=torch.device("cpu"), on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) == len(checkpoint.tensors)


def test_shards_are_one_model(llama: Path, tmp_path: Path):
    shard(tmp_path)
    assert (tmp_path / INDEX).is_file()
    prompts = {1: prompt(1, 12)}
    assert texts(decoder(tmp_path), prompts) == texts(decoder(llama), prompts)


@pytest.mark.parametrize(
    ("stored", "named", "configured", "computed"),
    [
        (torch.bfloat16, "bfloat16", None, torch.bfloat16),
        (torch.float32, "bfloat16", None, torch.bfloat16),
        (torch.bfloat16, None, None, torch.bfloat16),
        (torch.bfloat16, "bfloat16", "float32", torch.float32),
    ],
    ids=["own", "named", "stored", "configured"],
)
def test_the_dtype_is_the_checkpoints_own(
    tmp_path: Path, stored: torch.dtype, named: str | None, configured: str | None, computed: torch.dtype
):
    save(tmp_path, dtype=stored)
    edit_json(tmp_path / CONFIG, dtype=named)
    loaded = decoder(tmp_path, configured)
    assert loaded.dtype == computed
    assert len(texts(loaded, {1: prompt(1, 5)})[1]) == 24


def test_longrope_ends_at_the_original_context(tmp_path: Path):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 64,
    }
    save(tmp_path, "phi3", rope_parameters=rope, original_max_position_embeddings=64)
    assert decoder(tmp_path).context == 64


# --- what is broken -------------------------------------------------------------------------------------


def missing_shard(path: Path) -> None:
    for file in path.glob("*"):
        file.unlink()
    shard(path)
    sorted(path.glob("model-*.safetensors"))[1].unlink()


def missing_tensor_in_shard(path: Path) -> None:
    shard(path)
    (path / WEIGHTS).unlink()
    file = sorted(path.glob("model-*.safetensors"))[1]
    edit_weights(file, lambda tensors: tensors.pop(min(tensors)))


def bad_header(path: Path) -> None:
    data = bytearray((path / WEIGHTS).read_bytes())
    data[8:12] = b"\xff\xfe{{"
    (path / WEIGHTS).write_bytes(data)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def not_numbers(path: Path) -> None:
    edit_weights(path / WEIGHTS, lambda tensors: tensors["model.norm.weight"].fill_(float("inf")))


def to_fp8(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(torch.float8_e4m3fn)


def mamba(path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(path)


def hybrid(path: Path) -> None:
    edit_json(path / CONFIG, model_type="qwen3_next", layer_types=["linear_attention"] * 3)


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "model_broken", "neither model.safetensors nor"),
    "no config": (lambda p: (p / CONFIG).unlink(), "model_broken", "config.json: is missing"),
    "bad config": (
        lambda p: (p / CONFIG).write_text("{"),
        "model_broken",
        "config.json: is not readable as JSON",
    ),
    "list config": (
        lambda p: (p / CONFIG).write_text("[]"),
        "model_broken",
        "config.json: is not a JSON object",
    ),
    "bad index": (lambda p: (p / INDEX).write_text("nonsense"), "model_broken", f"{INDEX}: is not readable"),
    "odd index": (
        lambda p: (p / INDEX).write_text('{"weight_map": 3}'),
        "model_broken",
        "weight_map must be",
    ),
    "missing shard": (missing_shard, "model_broken", r"model-00002-of-\d+\.safetensors: is missing"),
    "tensor not in shard": (
        missing_tensor_in_shard,
        "model_broken",
        r"model-00002-of-\d+\.safetensors: lacks",
    ),
    "truncated": (
        lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:-100]),
        "model_broken",
        "model.safetensors: is cut short",
    ),
    "cut in header": (
        lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:50]),
        "model_broken",
        "damaged safetensors header",
    ),
    "empty": (lambda p: (p / WEIGHTS).write_bytes(b""), "model_broken", "is not a safetensors file"),
    "bad header": (bad_header, "model_broken", "damaged safetensors header"),
    "missing key": (
        lambda p: edit_weights(p / WEIGHTS, lambda tensors: tensors.pop("model.norm.weight")),
        "model_broken",
        "lacks model.norm.weight",
    ),
    "wrong shape": (
        lambda p: edit_weights(p / WEIGHTS, reshape),
        "model_broken",
        r"model.norm.weight has shape \[63\] instead of \[64\]",
    ),
    "not numbers": (not_numbers, "model_broken", "logits that are not numbers"),
    "unknown dtype": (
        lambda p: edit_json(p / CONFIG, dtype="float99"),
        "model_unsupported",
        "config.json: dtype 'float99' is not one of float32",
    ),
    "fp8": (lambda p: edit_weights(p / WEIGHTS, to_fp8), "model_unsupported", "is of type F8_E4M3"),
    "quantized": (
        lambda p: edit_json(p / CONFIG, quantization_config={"quant_method": "gptq"}),
        "model_unsupported",
        r"quantized weights \(gptq\)",
    ),
    "unknown architecture": (
        lambda p: edit_json(p / CONFIG, model_type="never_heard_of"),
        "model_unsupported",
        "never_heard_of.*tested are gemma2",
    ),
    "no decoder": (
        lambda p: edit_json(p / CONFIG, model_type="vit"),
        "model_unsupported",
        "vit is not a decoder",
    ),
    "recurrent": (mamba, "model_unsupported", "mamba has layers of type linear_attention"),
    "own attention": (
        lambda p: edit_json(p / CONFIG, model_type="bloom"),
        "model_unsupported",
        "bloom does not use the attention interface",
    ),
    "odd value": (
        lambda p: edit_json(p / CONFIG, hidden_size="wide"),
        "model_broken",
        "config.json: is no configuration of llama",
    ),
    "hybrid": (hybrid, "model_unsupported", "layers of type linear_attention"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_is_refused_with_file_and_cause(name: str, tmp_path: Path):
    spoil, code, message = BROKEN[name]
    save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelLoadError, match=message) as raised:
        decoder(tmp_path)
    assert raised.value.code == code
    assert str(tmp_path) in raised.value.message


def test_a_missing_directory_is_refused():
    with pytest.raises(ModelLoadError, match="no such directory") as raised:
        read_checkpoint(Path("/nowhere/at/all"))
    assert raised.value.code == "model_not_found"


def test_the_configured_dtype_wins(llama: Path):
    assert model_dtype(read_checkpoint(llama), "bfloat16") is torch.bfloat16
