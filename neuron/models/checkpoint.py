"""A Hugging Face directory as it is on disk, read and checked before anything is loaded from it.

Only JSON and safetensors headers are read here. So what is missing, cut short or not supported is known, with
its file, before weights are read or memory is taken. Imports no torch. Files of other layouts come to be a
`Checkpoint`, too: `neuron.models.reading` knows all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("neuron.models")

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")  # how images are processed

# safetensors' names of the types that hold plain numbers, and of those of buffers such as position ids and of
# codes of quantized numbers.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BUFFER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BUFFER_TYPES = frozenset(_BUFFER_BYTES)
_CODE_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8}
_ALL_BYTES = ITEM_BYTES | _BUFFER_BYTES | _CODE_BYTES
LAYER_COUNTS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers"}

# What else models are published as: pattern, what it is, and the cure. The first that is there is named.
_CONVERT = "load it with transformers and `save_pretrained`, or use the model's safetensors release"
_OTHER_FILES = (
    ("*.gguf", "a GGUF file", "name the file itself, or its precision as quant"),
    (ADAPTER, "a LoRA adapter without its model", "load its base model, then it as BASE:NAME"),
    (
        "consolidated*.safetensors",
        "in the publisher's own layout, without Hugging Face's names",
        f"use a release with {WEIGHTS} and {CONFIG}",
    ),
    ("consolidated*.pth", "pickled in the publisher's own layout", f"use a release with {WEIGHTS}"),
    ("*.bin", "pickled, and pickles run code when they are read", _CONVERT),
    ("*.pt", "pickled, and pickles run code when they are read", _CONVERT),
)
_MAX_HEADER_BYTES = 100 << 20  # the format's own limit


class ModelLoadError(Exception):
    """A model cannot be loaded, and nothing of it is left behind. `code` is one of `pipe.LoadFailed`'s."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def model_broken(path: Path, cause: str) -> ModelLoadError:
    """Return the error for a file or directory that is damaged or incomplete."""
    return ModelLoadError("model_broken", f"{path}: {cause}")


class OpenFiles:
    """The files that a load has open, each opened once."""

    def __init__(self, exits: ExitStack, pause: Callable[[], None] = lambda: None) -> None:
        self._exits = exits
        self.pause = pause  # to be called between pieces of long work: requests of other models go on
        self._open: dict[Path, Any] = {}

    def get(self, file: Path, opener: Callable[[Path], AbstractContextManager[Any]]) -> Any:
        """Return what `opener` made of a file, which is closed after the load."""
        if file not in self._open:
            self._open[file] = self._exits.enter_context(opener(file))
        return self._open[file]


class TensorEntry(Protocol):
    """A tensor of a checkpoint that is not read yet."""

    @property
    def file(self) -> Path:
        """Where it is, or the most of it: errors name it."""

    @property
    def dtype(self) -> str:
        """safetensors' name of plain numbers' type, or the name of the format in which it stays stored."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int:
        """What is read of files for it."""

    def loaded_bytes(self, item_bytes: int) -> int:
        """Return what it takes in memory if a plain number takes `item_bytes`."""

    def read(self, files: OpenFiles) -> Tensor:
        """Return its numbers as they are stored: plain, or a `StoredWeight`. Raises ModelLoadError."""


@dataclass(frozen=True, slots=True)
class SafetensorsEntry:
    """A tensor of a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # of its bytes in the file
    num_bytes: int

    def loaded_bytes(self, item_bytes: int) -> int:
        return prod(self.shape) * item_bytes

    def read(self, files: OpenFiles) -> Tensor:
        """Return the part of the mapped file, which takes no memory of its own."""
        try:
            tensor: Tensor = files.get(self.file, _map).tensor(self.start, self.dtype, self.shape)
        except (OSError, ValueError) as error:
            raise model_broken(self.file, f"{self.name} cannot be read: {error}") from error
        return tensor


def _map(file: Path) -> AbstractContextManager[Any]:
    # Imported here because the daemon, which reads headers only, has no torch.
    from neuron.models.mapped_file import MappedFile  # noqa: PLC0415

    return nullcontext(MappedFile(file))  # unmapped with the last tensor that views it, not before


@dataclass(frozen=True, slots=True)
class HeadTensors:
    """What a multi-token head has beside the decoder's last layer, which is the head's then."""

    layer: str  # what the names of that layer's tensors begin with
    own: tuple[TensorEntry, ...]  # in the order of `HeadWeights`


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose files are all there and complete."""

    path: Path  # of its directory, or of its first file
    config: dict[str, Any]  # as `config.json` has it
    tensors: dict[str, TensorEntry]
    rope_divisors: list[float] | None = None  # of its frequencies, beside what `config` says
    head: HeadTensors | None = None  # of one that is read with the head that guesses ahead

    @property
    def config_file(self) -> Path:
        """Where the configuration stands."""
        return self.path / CONFIG if self.path.is_dir() else self.path

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.tensors.values())

    @property
    def entries(self) -> list[TensorEntry]:
        """All tensors, those of the head included."""
        return [*self.tensors.values(), *(self.head.own if self.head else ())]

    @property
    def dtype(self) -> str:
        """safetensors' name of the type that most bytes are stored in."""
        sizes: dict[str, int] = dict.fromkeys(ITEM_BYTES, 0)
        for entry in self.tensors.values():
            if entry.dtype in sizes:
                sizes[entry.dtype] += entry.num_bytes
        return max(sizes, key=sizes.__getitem__)


def read_directory(path: Path) -> Checkpoint:
    """Return all of a directory but its weights, each tensor as it is in a safetensors file.

    Raises ModelLoadError naming the file and what is wrong.
    """
    if not path.is_dir():
        raise ModelLoadError("model_not_found", f"{path}: no such directory")
    config = _read_config(path)
    tensors: dict[str, TensorEntry] = {}
    for file, names in _files(path).items():
        entries = read_header(file)
        if missing := sorted(names - entries.keys()):
            cause = f"lacks {missing[0]}, which {INDEX} says it has ({len(missing)} such tensors)"
            raise model_broken(file, cause)
        tensors |= entries
    _check_layers(path / CONFIG, config, len(tensors))
    for warning in load_warnings(path):
        log.warning(warning)
    return Checkpoint(path, config, tensors)


def load_warnings(path: Path) -> list[str]:
    """Return what a load passes over that its operator may have meant, each with file and cure."""
    if not (path / ADAPTER).is_file():
        return []
    cure = "load it as BASE:NAME, from a directory of its own"
    return [f"{path / ADAPTER}: the LoRA adapter beside the model is not applied; {cure}"]


def _read_config(path: Path) -> dict[str, Any]:
    """Return a configuration that names the model's type."""
    file = path / CONFIG
    if not file.is_file():
        raise wrong_files(path) or model_broken(file, "is missing")
    config = read_json(file)
    if not isinstance(config.get("model_type"), str):
        raise model_broken(file, "model_type is not a name")
    text_config = config.get("text_config") or {}
    if not isinstance(text_config, dict):
        raise model_broken(file, "text_config is not a JSON object")
    return config


def _check_layers(file: Path, config: dict[str, Any], num_tensors: int) -> None:
    """Refuse a number of layers that takes longer to build than to contradict."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in LAYER_COUNTS & part.keys():
            if isinstance(part[key], (int, float)) and part[key] > num_tensors:
                cause = f"{key} is {part[key]}, but the weights are {num_tensors} tensors in all"
                raise model_broken(file, cause)


def wrong_files(path: Path) -> ModelLoadError | None:
    """Return what a directory holds instead of Hugging Face's layout, and the cure; None when nothing."""
    for pattern, kind, cure in _OTHER_FILES:
        if found := sorted(file.name for file in path.glob(pattern)):
            return ModelLoadError("model_unsupported", f"{path / found[0]}: is {kind}; {cure}")
    return None


def _files(path: Path) -> dict[Path, set[str]]:
    """Return the files with weights, each with the tensors that the index says it has."""
    if not (path / INDEX).is_file():
        if not (path / WEIGHTS).is_file():
            raise wrong_files(path) or _no_weights(path)
        return {path / WEIGHTS: set()}
    file_names = read_json(path / INDEX).get("weight_map")
    if not isinstance(file_names, dict) or not all(isinstance(name, str) for name in file_names.values()):
        raise model_broken(path / INDEX, "weight_map must be an object of file names")
    files: dict[Path, set[str]] = {}
    for tensor, name in file_names.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise model_broken(path / INDEX, f"weight_map names {name!r}, which is outside the directory")
        files.setdefault(path / name, set()).add(tensor)
    for file in files:
        if not _is_file(file):
            raise model_broken(file, f"is missing, but {INDEX} names it")
    return files


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that no file can have
        return False


def _no_weights(path: Path) -> ModelLoadError:
    cause = f"has neither {WEIGHTS} nor {INDEX}"
    if others := sorted(file.name for file in path.glob("*.safetensors")):
        cause += f", but {others[0]}: rename it if it is the model"
    return model_broken(path, cause)


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, with infinities read as transformers writes them.

    Raises ModelLoadError.
    """
    try:
        value = json.loads(file.read_bytes(), object_hook=_special_float)
    except FileNotFoundError:
        raise model_broken(file, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise model_broken(file, f"is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise model_broken(file, "is not a JSON object")
    return value


def _special_float(value: dict[str, Any]) -> Any:
    """Return the float that transformers writes as an object because JSON has none; else `value`."""
    name = value.get("__float__")
    is_name = isinstance(name, str) and name in {"Infinity", "-Infinity", "NaN"}
    return float(str(name)) if is_name and len(value) == 1 else value


def read_header(file: Path) -> dict[str, SafetensorsEntry]:
    """Return the tensors of one safetensors file, whose length must be what its header says.

    Raises ModelLoadError.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise model_broken(file, "is not a safetensors file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(file, 8 + length, name, raw) for name, raw in header.items()}
        end = max((raw["data_offsets"][1] for raw in header.values()), default=0)
    except OSError as error:
        raise model_broken(file, f"cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise model_broken(file, f"has a damaged safetensors header: {error!r}") from error
    size, wanted = file.stat().st_size, 8 + length + end
    if size != wanted:
        raise model_broken(file, f"is cut short or damaged: {size} bytes instead of {wanted}")
    return entries


def _entry(file: Path, data_start: int, name: str, raw: dict[str, Any]) -> SafetensorsEntry:
    dtype = raw["dtype"]
    start, end = raw["data_offsets"]
    shape = tuple(raw["shape"])
    item_bytes = _ALL_BYTES.get(dtype)
    if item_bytes is None:
        cause = f"{name} is of type {dtype}, which is not supported"
        raise ModelLoadError("model_unsupported", f"{file}: {cause}")
    if end - start != prod(shape) * item_bytes:
        cause = f"{name} has {end - start} bytes, which does not fit its shape {raw['shape']}"
        raise model_broken(file, cause)
    return SafetensorsEntry(file, name, dtype, shape, data_start + start, end - start)
