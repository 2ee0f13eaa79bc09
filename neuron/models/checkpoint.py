"""A Hugging Face directory as it lies on disk, read and checked before anything is loaded from it.

Only JSON and safetensors headers are read here, so that what is missing, cut short or of a kind we do not
run is known, with its file, before a byte of weights is read or memory taken. No torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Of safetensors' types those that hold plain numbers; the rest belongs to quantization schemes.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # buffers, such as position ids
_MAX_HEADER_BYTES = 100 << 20  # the format's own bound


class ModelLoadError(Exception):
    """A model cannot be loaded; nothing of it stays behind. `code` is one of `neuron.pipe.LoadFailed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def model_broken(path: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_broken", f"{path}: {cause}")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in one file."""

    file: Path
    dtype: str  # safetensors' name of it
    num_values: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory whose files are all there and whole."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorEntry]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.tensors.values())

    @property
    def dtype(self) -> str:
        """safetensors' name of the type most values are stored in."""
        sizes: dict[str, int] = dict.fromkeys(ITEM_BYTES, 0)
        for entry in self.tensors.values():
            if entry.dtype in sizes:
                sizes[entry.dtype] += entry.num_bytes
        return max(sizes, key=sizes.__getitem__)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read all of `path` that is not weights. Raises LoadError naming the file and what is wrong with it."""
    if not path.is_dir():
        raise ModelLoadError("model_not_found", f"{path}: no such directory")
    config = _read_json(path / CONFIG)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ModelLoadError(
            "model_unsupported", f"{path / CONFIG}: quantized weights ({method}) are not supported"
        )
    tensors: dict[str, TensorEntry] = {}
    for file, names in _files(path).items():
        entries = _read_header(file)
        if missing := sorted(names - entries.keys()):
            raise model_broken(
                file, f"lacks {missing[0]}, which {INDEX} says it has ({len(missing)} such tensors)"
            )
        tensors |= entries
    return Checkpoint(path, config, tensors)


def _files(path: Path) -> dict[Path, set[str]]:
    """The files with weights, each with the tensors that the index promises."""
    if not (path / INDEX).is_file():
        if not (path / WEIGHTS).is_file():
            raise model_broken(path, f"has neither {WEIGHTS} nor {INDEX}")
        return {path / WEIGHTS: set()}
    places = _read_json(path / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise model_broken(path / INDEX, "weight_map must be an object of file names")
    files: dict[Path, set[str]] = {}
    for tensor, name in places.items():
        files.setdefault(path / name, set()).add(tensor)
    for file in files:
        if not file.is_file():
            raise model_broken(file, f"is missing, but {INDEX} names it")
    return files


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise model_broken(file, "is missing") from None
    except (OSError, ValueError) as error:
        raise model_broken(file, f"is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise model_broken(file, "is not a JSON object")
    return value


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, which is as long as its header says."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise model_broken(file, "is not a safetensors file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(file, name, raw) for name, raw in header.items()}
        end = max((raw["data_offsets"][1] for raw in header.values()), default=0)
    except OSError as error:
        raise model_broken(file, f"cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise model_broken(file, f"has a damaged safetensors header: {error!r}") from error
    size = file.stat().st_size
    if size != 8 + length + end:
        raise model_broken(file, f"is cut short or damaged: {size} bytes instead of {8 + length + end}")
    return entries


def _entry(file: Path, name: str, raw: dict[str, Any]) -> TensorEntry:
    dtype, (start, end), num_values = raw["dtype"], raw["data_offsets"], prod(raw["shape"])
    if dtype not in ITEM_BYTES and dtype not in _OTHER_BYTES:
        raise ModelLoadError(
            "model_unsupported", f"{file}: {name} is of type {dtype}, which is not supported"
        )
    if end - start != num_values * (ITEM_BYTES | _OTHER_BYTES)[dtype]:
        raise model_broken(file, f"{name} has {end - start} bytes, which its shape {raw['shape']} does not")
    return TensorEntry(file, dtype, num_values, end - start)
