"""From a checkpoint's files to transformers' model on the device.

transformers has the class and renames the weights; their bytes are read here, one tensor at a time straight
to the device. So weights are never held twice, and whoever waits learns how far the load has come.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, OpenFiles, TensorEntry, model_broken
from neuron.models.contradiction import (
    contradicting_count,
    contradicting_size,
    contradicting_zero,
    making_keys,
)
from neuron.models.rope_divisors import divide_frequencies
from neuron.models.stored_weight import StoredWeight, moved
from neuron.models.tensor_parallel.checkpoint import RankPart
from neuron.models.upload import UploadRing

# Called with the fraction of bytes read between any two pieces of a load, so that others can use the device.
OnProgress = Callable[[float], None]

# Causal masks, frequencies and positions, which older releases of transformers stored.
_OLD_BUFFERS = re.compile(r"(^|\.)((attn|attention)\.(masked_)?bias|inv_freq|position_ids)$")
_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_MAX_LISTED = 5  # names in an error
# While it builds a model, transformers replaces methods of its classes, for the whole process.
_BUILDING = threading.Lock()


MAX_IMAGE_PIXELS = 20_000_000


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a checkpoint is loaded."""

    dtype: torch.dtype
    device: torch.device
    on_progress: OnProgress
    allow_unexpected: bool = False  # tensors that the model has no place for
    max_image_pixels: int = MAX_IMAGE_PIXELS  # of one file
    images: bool = True  # of a model that sees; otherwise it only reads and writes text
    part: RankPart | None = None  # the checkpoint is of one rank's part

    def __post_init__(self) -> None:
        if self.device.type == "cpu":  # torch copies what it moves from `cpu` to `cpu:0`
            object.__setattr__(self, "device", torch.device("cpu"))


def load_weights(
    checkpoint: Checkpoint,
    config: Any,
    model_class: Any,
    options: LoadOptions,
    *,
    attention: str | dict[str, str] | None,
    is_headless: bool = False,
) -> Any:
    """Return transformers' model with the checkpoint's weights on the device, for inference.

    `attention` names what its layers attend with; None leaves it to transformers. A model that `is_headless`
    may be stored with the heads that it was trained with. Raises ModelLoadError naming the file and what is
    wrong.
    """
    with ExitStack() as files:
        reader = TensorReader(checkpoint, files, options)
        try:
            model, info = _build(checkpoint, config, model_class, reader, attention)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            raise reader.failure or _not_built(checkpoint, model_class, error, options) from error
    _check_complete(checkpoint, model_class, info, options)
    _check_tied(checkpoint, model)
    if not options.allow_unexpected:
        heads_of = model if is_headless else None
        _check_expected(checkpoint, info["unexpected_keys"], heads_of)
    return _for_inference(checkpoint, model, options)


def load_exactly(
    checkpoint: Checkpoint, config: Any, model_class: Any, reader: TensorReader, *, attention: str
) -> Any | None:
    """Return transformers' model as `load_weights` does; None unless all weights are there, and no others.

    The `reader` may be of a larger checkpoint. Raises ModelLoadError if a weight cannot be read.
    """
    try:
        model, info = _build(checkpoint, config, model_class, reader, attention)
        if any(info.values()):
            return None
        _check_tied(checkpoint, model)
        return _for_inference(checkpoint, model, reader.options)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if reader.failure:
            raise reader.failure from error
        return None  # what transformers makes of it is for the caller to find out


def _build(
    checkpoint: Checkpoint,
    config: Any,
    model_class: Any,
    reader: TensorReader,
    attention: str | dict[str, str] | None,
) -> tuple[Any, dict[str, Any]]:
    """Return transformers' model, and which tensors did not fit."""
    # Otherwise transformers reads in threads of its own, which would call `on_progress`.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    with _BUILDING, _quiet():
        built: tuple[Any, dict[str, Any]] = model_class.from_pretrained(
            None,
            config=config,
            state_dict={name: _LazyTensor(reader, name) for name in checkpoint.tensors},
            dtype=reader.options.dtype,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # reported by whoever asked, with the file
            output_loading_info=True,
        )
    return built


def _for_inference(checkpoint: Checkpoint, model: Any, options: LoadOptions) -> Any:
    if checkpoint.rope_divisors:
        divide_frequencies(model, checkpoint)
    model = model.to(options.device)
    return model.eval().requires_grad_(requires_grad=False)


def read_entries(entries: Iterable[TensorEntry], options: LoadOptions) -> list[Tensor]:
    """Return tensors that no class of transformers has a place for, on the device. Raises ModelLoadError."""
    with ExitStack() as exits:
        files = OpenFiles(exits, partial(options.on_progress, 1.0))
        return [entry.read(files).to(device=options.device, dtype=options.dtype) for entry in entries]


def _not_built(
    checkpoint: Checkpoint, model_class: Any, error: Exception, options: LoadOptions
) -> ModelLoadError:
    if cause := contradicting_zero(checkpoint, model_class, partial(options.on_progress, 0.0)):
        return ModelLoadError("model_broken", f"{cause}; correct it: {error}")
    what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
    return model_broken(checkpoint.path, f"cannot be loaded: {what}; correct what {CONFIG} says of it")


def _check_complete(
    checkpoint: Checkpoint, model_class: Any, info: dict[str, Any], options: LoadOptions
) -> None:
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        cause = f"{name} has shape {list(stored)} instead of {list(wanted)}"
        shapes = {name: tuple(shape) for name, shape, _ in mismatched}
        found = contradicting_size(checkpoint, model_class, shapes, partial(options.on_progress, 1.0))
        raise model_broken(_file_of(checkpoint, name), cause + _cure(checkpoint, name, found))
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        cause = f"lacks {missing[0]} ({len(missing)} such tensors)"
        found = contradicting_count(checkpoint, missing[0])
        raise model_broken(checkpoint.path, cause + _cure(checkpoint, missing[0], found))


def _check_tied(checkpoint: Checkpoint, model: Any) -> None:
    """Refuse weights that are to be one and are stored as two."""
    wanted = model.get_expanded_tied_weights_keys(all_submodels=True)
    if apart := sorted(wanted.keys() - model.all_tied_weights_keys.keys()):
        name = apart[0]
        cause = f"{name} is another weight than {wanted[name]}, but {CONFIG} says that they are one"
        cure = "set tie_word_embeddings to false there if both are meant, or remove the tensor"
        raise model_broken(_file_of(checkpoint, name), f"{cause}; {cure}")


def _cure(checkpoint: Checkpoint, name: str, found: str | None) -> str:
    """Return which keys of the configuration to correct: what was `found`, or those that make the tensor."""
    if found:
        return f"; {found}; correct it"
    stated = ", ".join(making_keys(checkpoint, name))
    return f"; correct what {CONFIG} says otherwise than the weights, by {stated}" if stated else ""


def _file_of(checkpoint: Checkpoint, name: str) -> Path:
    """Return where a tensor is; of one that is made of others, where the first of its module or layer is."""
    while name:
        for stored, entry in checkpoint.tensors.items():
            if stored == name or stored.startswith(f"{name}."):
                return entry.file
        name = name.rpartition(".")[0]
    return checkpoint.path


def _check_expected(checkpoint: Checkpoint, unexpected: Iterable[str], headless: Any | None) -> None:
    """Refuse tensors that would change the result if the model had a place for them.

    Of a `headless` model those beside its modules are heads, which are not used.
    """
    found = sorted(name for name in unexpected if not _OLD_BUFFERS.search(name))
    with ExitStack() as exits:
        files = OpenFiles(exits)
        found = [name for name in found if not _is_zero_bias(checkpoint, name, files)]
    if headless is not None:
        modules = {name for name, _ in headless.named_children()}
        found = [name for name in found if modules & set(name.split(".")[:2])]
    if found:
        listed = ", ".join(found[:_MAX_LISTED]) + (", …" if len(found) > _MAX_LISTED else "")
        cause = f"has {len(found)} tensors that its configuration has no place for: {listed}"
        cure = contradicting_count(checkpoint, found[0]) or "correct the configuration"
        cure += ", or set allow_unexpected_tensors under [device] to ignore them"
        raise ModelLoadError("model_unsupported", f"{checkpoint.path}: {cause}; {cure}")


def _is_zero_bias(checkpoint: Checkpoint, name: str, files: OpenFiles) -> bool:
    """Return whether a tensor is a bias that changes nothing, as some quantizers store with every layer."""
    entry = checkpoint.tensors.get(name) if name.endswith(".bias") else None
    return entry is not None and not entry.read(files).any()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers, which reports problems as tables and progress bars on stderr; they are raised."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


class TensorReader:
    """Reads tensors as transformers asks for them, and reports progress."""

    def __init__(self, checkpoint: Checkpoint, exits: ExitStack, options: LoadOptions) -> None:
        self.options = options
        self._checkpoint = checkpoint
        self._files = OpenFiles(exits, self._report)
        self._device = options.device
        self._ring = exits.enter_context(UploadRing(self._device)) if self._device.type == "cuda" else None
        self._num_read, self._num_bytes = 0, checkpoint.num_bytes
        self.failure: Exception | None = None  # transformers raises something else instead

    def read(self, name: str, dtype: torch.dtype | None) -> Tensor:
        entry = self._checkpoint.tensors[name]
        try:
            tensor = entry.read(self._files)
            _check_stored(name, entry, tensor, dtype)
            tensor = self._uploaded(tensor).to(device=self._device, dtype=dtype)
            self._num_read += entry.num_bytes
            self._report()
        except Exception as error:
            self.failure = self.failure or error
            raise
        return tensor

    def _uploaded(self, tensor: Tensor) -> Tensor:
        if self._ring is None or tensor.device.type != "cpu":
            return tensor
        copy = self._ring.copy
        return moved(tensor, copy) if isinstance(tensor, StoredWeight) else copy(tensor)

    def _report(self) -> None:
        self.options.on_progress(self._num_read / self._num_bytes)


def _check_stored(name: str, entry: TensorEntry, tensor: Tensor, dtype: torch.dtype | None) -> None:
    if dtype and dtype.is_floating_point and tensor.dtype not in _PLAIN:
        cause = f"{name} is stored as {entry.dtype}, but {CONFIG} has no quantization_config that reads it"
        raise ModelLoadError("model_unsupported", f"{entry.file}: {cause}")


class _LazyTensor:
    """A tensor on disk where transformers expects one in memory; it is read when it is moved to a device.

    It goes to our device, whatever device transformers names: without a device map, which needs another
    package, transformers would put every tensor on the CPU first.
    """

    def __init__(self, reader: TensorReader, name: str) -> None:
        self._reader = reader
        self._name = name

    def __getitem__(self, _: object) -> _LazyTensor:
        return self

    def to(self, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        return self._reader.read(self._name, dtype)
