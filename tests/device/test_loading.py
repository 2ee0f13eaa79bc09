from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from neuron.models.checkpoint import ADAPTER, CONFIG, INDEX, WEIGHTS, ModelLoadError
from neuron.models.decoder import load_decoder, model_dtype
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from tests.device.ranks import in_threads
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import build, save

QUERY = "model.layers.1.self_attn.q_proj"


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
    load_decoder(checkpoint, LoadOptions(torch.float32, torch.device("cpu"), seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(set(seen)) == len(checkpoint.tensors) + 1  # and 0.0, before the first


def test_models_are_built_one_after_the_other(llama: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers puts back what it replaces meanwhile, which two at once would leave replaced for good."""
    make, both = LlamaForCausalLM.__init__, threading.Barrier(2, timeout=0.2)
    have_met: list[int] = []

    def meeting(self: LlamaForCausalLM, *args: Any, **keywords: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            have_met.append(both.wait())
        make(self, *args, **keywords)

    monkeypatch.setattr(LlamaForCausalLM, "__init__", meeting)
    loaded = in_threads([lambda: decoder(llama)] * 2)
    assert not [each for each in loaded if isinstance(each, Exception)]
    assert not have_met


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


def test_unexpected_tensors_may_be_allowed(llama: Path, tmp_path: Path):
    path = save(tmp_path)
    edit_weights(path / WEIGHTS, lambda tensors: tensors.update({f"{QUERY}.bias": torch.ones(64)}))
    options = LoadOptions(torch.float32, torch.device("cpu"), lambda _: None, allow_unexpected=True)
    prompts = {1: prompt(1, 12)}
    assert texts(load_decoder(read_checkpoint(path), options), prompts) == texts(decoder(llama), prompts)


def test_a_bias_of_zeros_changes_nothing(llama: Path, tmp_path: Path):
    path = save(tmp_path)
    edit_weights(path / WEIGHTS, lambda tensors: tensors.update({f"{QUERY}.bias": torch.zeros(64)}))
    prompts = {1: prompt(1, 12)}
    assert texts(decoder(path), prompts) == texts(decoder(llama), prompts)


def test_buffers_that_older_releases_stored_are_expected(tmp_path: Path):
    path = save(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(path / WEIGHTS, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert decoder(path).vocab_size == 128


def test_an_adapter_beside_a_model_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = save(tmp_path)
    (path / ADAPTER).write_text("{}")
    decoder(path)
    cure = "load it as BASE:NAME, from a directory of its own"
    assert [record.message for record in caplog.records if record.name == "neuron.models"] == [
        f"{path / ADAPTER}: the LoRA adapter beside the model is not applied; {cure}"
    ]


def test_floats_that_json_lacks_are_read_as_transformers_writes_them(tmp_path: Path):
    (tmp_path / CONFIG).write_text(
        '{"model_type": "x", "time_step_limit": [0.0, {"__float__": "Infinity"}], "odd": {"__float__": "?"}}'
    )
    save_file({"x": torch.ones(1)}, tmp_path / WEIGHTS)
    assert read_checkpoint(tmp_path).config["time_step_limit"] == [0.0, float("inf")]
    assert read_checkpoint(tmp_path).config["odd"] == {"__float__": "?"}


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


def nested_header(path: Path) -> None:
    header = b"[" * 100_000
    (path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def to_fp8(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(torch.float8_e4m3fn)


def to_int8(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"].to(torch.int8)
    tensors[f"{QUERY}.weight_scale"] = torch.ones(64)


def as_pickle(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / "pytorch_model.bin").write_bytes(b"")


def only_gguf(path: Path) -> None:
    (path / WEIGHTS).rename(path / "llama-q4.gguf")
    (path / CONFIG).unlink()


def only_adapter(path: Path) -> None:
    (path / WEIGHTS).rename(path / "adapter_model.safetensors")
    (path / CONFIG).rename(path / ADAPTER)


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
    "index that leads elsewhere": (
        lambda p: (p / INDEX).write_text('{"weight_map": {"a": "../other/model.safetensors"}}'),
        "model_broken",
        f"{INDEX}: weight_map names '../other/model.safetensors', which is outside",
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
    "nested header": (nested_header, "model_broken", rf"{WEIGHTS}: has a damaged safetensors header"),
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
    "unknown dtype": (
        lambda p: edit_json(p / CONFIG, dtype="float99"),
        "model_unsupported",
        "config.json: dtype 'float99' is not one of float32",
    ),
    "fp8": (lambda p: edit_weights(p / WEIGHTS, to_fp8), "model_unsupported", "stored as F8_E4M3"),
    "quantized": (
        lambda p: edit_json(p / CONFIG, quantization_config={"quant_method": "gptq"}),
        "model_unsupported",
        r"quantization_config.bits is None, which does not run; 2, 3, 4, 8 would",
    ),
    "unknown architecture": (
        lambda p: edit_json(p / CONFIG, model_type="never_heard_of"),
        "model_unsupported",
        "never_heard_of.*tested are .*bamba",
    ),
    "no decoder": (
        lambda p: edit_json(p / CONFIG, model_type="sam"),
        "model_unsupported",
        "no class of sam that writes text",
    ),
    "labels images": (
        lambda p: edit_json(p / CONFIG, model_type="vit"),
        "model_unsupported",
        "vit labels images and writes no text",
    ),
    "diffusion": (
        lambda p: edit_json(p / CONFIG, model_type="diffusion_gemma"),
        "model_unsupported",
        "diffusion_gemma writes by diffusion: a block of tokens at once",
    ),
    "encoder-decoder": (
        lambda p: edit_json(p / CONFIG, model_type="t5"),
        "model_unsupported",
        "t5 is not a decoder, it has an encoder before it",
    ),
    "fills in": (
        lambda p: edit_json(p / CONFIG, model_type="bert"),
        "model_unsupported",
        "bert reads in both directions: it fills in masked tokens",
    ),
    "labels": (
        lambda p: edit_json(p / CONFIG, architectures=["LlamaForSequenceClassification"]),
        "model_unsupported",
        "LlamaForSequenceClassification labels texts and writes none",
    ),
    "another family": (
        lambda p: edit_json(p / CONFIG, model_type="bloom"),
        "model_broken",
        "lacks transformer",
    ),
    "a bias that is not configured": (
        lambda p: edit_weights(p / WEIGHTS, lambda t: t.update({f"{QUERY}.bias": torch.ones(64)})),
        "model_unsupported",
        rf"has 1 tensors that its configuration has no place for: {QUERY}.bias; .*allow_unexpected_tensors",
    ),
    "a layer more than configured": (
        lambda p: edit_json(p / CONFIG, num_hidden_layers=2),
        "model_unsupported",
        r"has 9 tensors that .* no place for: model.layers.2.*, …",
    ),
    "integers without a quantization": (
        lambda p: edit_weights(p / WEIGHTS, to_int8),
        "model_unsupported",
        f"{QUERY}.weight is stored as I8, but config.json has no quantization_config",
    ),
    "a head beside tied embeddings": (
        lambda p: edit_json(p / CONFIG, tie_word_embeddings=True),
        "model_broken",
        "model.safetensors: lm_head.weight is another weight than model.embed_tokens.weight, but config.json",
    ),
    "pickles": (as_pickle, "model_unsupported", "pytorch_model.bin: is pickled.*save_pretrained"),
    "gguf": (
        lambda p: (p / WEIGHTS).rename(p / "llama-q4.gguf"),
        "model_unsupported",
        "llama-q4.gguf: is a GGUF file; name the file itself",
    ),
    "gguf alone": (only_gguf, "model_unsupported", "llama-q4.gguf: is a GGUF file"),
    "publisher's own": (
        lambda p: (p / WEIGHTS).rename(p / "consolidated.safetensors"),
        "model_unsupported",
        "consolidated.safetensors: is in the publisher's own layout",
    ),
    "other name": (
        lambda p: (p / WEIGHTS).rename(p / "model.fp16.safetensors"),
        "model_broken",
        "has neither model.safetensors nor .*, but model.fp16.safetensors: rename it",
    ),
    "adapter": (
        only_adapter,
        "model_unsupported",
        "adapter_config.json: is a LoRA adapter without its model; load its base model, then it as BASE:NAME",
    ),
    "odd value": (
        lambda p: edit_json(p / CONFIG, hidden_size="wide"),
        "model_broken",
        "config.json: is no configuration of llama",
    ),
    "hybrid": (hybrid, "model_broken", r"lacks model.layers.0.linear_attn"),
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
