"""LoRA adapters as PEFT saves them (Hu et al. 2021): `adapter_config.json` and `adapter_model.safetensors`.

An adapter adds s B A to a weight, (out, in), where A is (r, in), B is (out, r), and s is alpha / r, or
alpha / sqrt(r) with `use_rslora` (Kalajdzievski 2023).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from neuron.models.checkpoint import (
    ADAPTER,
    ITEM_BYTES,
    ModelLoadError,
    OpenFiles,
    TensorEntry,
    model_broken,
    read_header,
    read_json,
)

WEIGHTS = "adapter_model.safetensors"
_MERGE = "merge it into its base model"
# Keys that change what an adapter means, with the values that leave it as above.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
}
_CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq", re.IGNORECASE)  # beginnings that change its weights
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


class LowRank(NamedTuple):
    """What is added to one weight: `up` @ `down`, both in float32."""

    down: Tensor  # (r, in)
    up: Tensor  # (out, r), with the scale


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter whose files are complete."""

    file: Path  # of its weights
    base: str  # the model that it was made for, as its configuration names it; often empty
    weights: Mapping[str, LowRank]  # by the name of a module

    @property
    def num_bytes(self) -> int:
        return sum(matrix.nbytes for weight in self.weights.values() for matrix in weight)


def read_adapter(path: Path) -> LoraAdapter:
    """Return the adapter in a directory, in float32.

    Raises ModelLoadError naming file, key and cure.
    """
    config_file, file = path / ADAPTER, path / WEIGHTS
    config = read_json(config_file)
    _check_kind(config_file, config)
    if not file.is_file():
        _refuse_other_files(path)
    pairs: dict[str, dict[str, TensorEntry]] = {}
    for key, entry in read_header(file).items():
        module, part = _parse(file, key, entry)
        pairs.setdefault(module, {})[part] = entry
    if not pairs:
        raise model_broken(file, "has no tensors")
    with ExitStack() as exits:
        files = OpenFiles(exits)
        weights = {
            module: _low_rank(config_file, config, module, parts, files) for module, parts in pairs.items()
        }
    base = config.get("base_model_name_or_path")
    return LoraAdapter(file, base if isinstance(base, str) else "", weights)


def _check_kind(file: Path, config: Mapping[str, Any]) -> None:
    for key, plain in _PLAIN.items():
        if (value := config.get(key, plain[0])) not in plain:
            raise _unsupported(file, f"{key} is {value!r}, which is not supported; {_MERGE}")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_BASE.match(begun):
        cause = f"init_lora_weights is {begun!r}, so it is for a base model that was changed as well"
        raise _unsupported(file, f"{cause}; convert it to plain LoRA, or {_MERGE}")


def _refuse_other_files(path: Path) -> None:
    if (path / "adapter_model.bin").is_file():
        cause = f"is pickled, and pickles run code when they are read; save it as {WEIGHTS}"
        raise _unsupported(path / "adapter_model.bin", cause)
    raise model_broken(path / WEIGHTS, "is missing")


def _parse(file: Path, key: str, entry: TensorEntry) -> tuple[str, str]:
    """Return the module that a tensor is for, and which part it is."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise _unsupported(file, f"{key} is no part of a plain LoRA adapter; {_MERGE}")
    if entry.dtype not in ITEM_BYTES:
        raise _unsupported(file, f"{key} is of type {entry.dtype}; save it as F32, BF16 or F16")
    if len(entry.shape) != 2 or not min(entry.shape):
        raise model_broken(file, f"{key} is no matrix, but {list(entry.shape)}")
    return found[1], found[2]


def _low_rank(
    config_file: Path,
    config: Mapping[str, Any],
    module: str,
    parts: Mapping[str, TensorEntry],
    files: OpenFiles,
) -> LowRank:
    if parts.keys() != {"A", "B"}:
        (part,) = {"A", "B"} - parts.keys()
        raise model_broken(next(iter(parts.values())).file, f"{module}.lora_{part}.weight is missing")
    down, up = parts["A"], parts["B"]
    rank = _number(config_file, config, "r", "rank_pattern", module)
    if not down.shape[0] == up.shape[1] == rank:
        cause = f"has rank {down.shape[0]} in A and {up.shape[1]} in B, but {config_file.name} says {rank:g}"
        raise model_broken(down.file, f"{module} {cause}")
    alpha = _number(config_file, config, "lora_alpha", "alpha_pattern", module)
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    weight = LowRank(down.read(files).float().clone(), up.read(files).float() * scale)
    if not all(bool(tensor.isfinite().all()) for tensor in weight):
        raise model_broken(down.file, f"{module} has weights that are no finite numbers")
    return weight


def _number(file: Path, config: Mapping[str, Any], key: str, patterns_key: str, module: str) -> float:
    """Return a module's rank or alpha: that of the first pattern which is the end of its name, or `key`'s."""
    patterns = config.get(patterns_key) or {}
    if not isinstance(patterns, dict):
        raise model_broken(file, f"{patterns_key} is not a JSON object")
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^")
        if not re.fullmatch(r"[\w.]+", name):
            raise _unsupported(file, f"{patterns_key} has {pattern!r}, which is no module's name; {_MERGE}")
        if module == name or (name == pattern and module.endswith(f".{name}")):
            return _positive(file, f"{patterns_key}.{pattern}", value)
    return _positive(file, key, config.get(key))


def _positive(file: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise model_broken(file, f"{key} is {value!r}, not a positive number")
    return float(value)


def _unsupported(file: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{file}: {cause}")


def unfit(adapter: LoraAdapter, cause: str, cures: Sequence[str] = ()) -> ModelLoadError:
    """Return the error for an adapter that its base model cannot take."""
    made_for = f"; it was made for {adapter.base!r}" if adapter.base else ""
    return _unsupported(adapter.file, "; ".join([cause + made_for, *(cures or [_MERGE])]))
