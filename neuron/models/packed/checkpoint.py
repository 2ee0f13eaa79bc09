"""A checkpoint whose weights are computed when they are read, as a packed file has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from neuron.models.checkpoint import Checkpoint, OpenFiles, TensorEntry, model_broken
from neuron.models.in_situ.checkpoint import InSituEntry
from neuron.models.mapped_file import mapping_of
from neuron.models.packed.file import PackedWeight, read_weights, write_weights
from neuron.models.packed.folder import PackedFolder
from neuron.models.packed.writing import written
from neuron.models.quantized.scheme import QuantizedEntry
from neuron.models.stored_weight import StoredWeight
from neuron.models.tensor_parallel.sizes import Rank
from neuron.models.tensor_parallel.tensors import PartEntry

log = logging.getLogger("neuron.models")

_SHARE = 0.9  # of a load's progress: to map the file takes next to no time

OnProgress = Callable[[float], None]
_Entries = Mapping[str, TensorEntry]


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """A `TensorEntry` of a weight in a packed file."""

    file: Path
    computed: TensorEntry
    weight: PackedWeight

    @property
    def dtype(self) -> str:
        return self.computed.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.computed.shape

    @property
    def num_bytes(self) -> int:
        return self.computed.num_bytes

    def loaded_bytes(self, item_bytes: int) -> int:
        return self.computed.loaded_bytes(item_bytes)

    def read(self, files: OpenFiles) -> Tensor:
        try:
            return self.weight.read(self.file, files)
        except (OSError, ValueError) as error:
            raise model_broken(self.file, f"cannot be read: {error}; delete it") from error


def packed(
    checkpoint: Checkpoint,
    folder: PackedFolder | None,
    quant: str | None,
    rank: Rank | None,
    on_progress: OnProgress,
) -> Checkpoint:
    """Return the checkpoint with its computed weights in a file of the folder, which is made if need be.

    It stays as it is without a folder, and where that cannot be used; then the log says why. Raises
    ModelLoadError for a weight that cannot be read.
    """
    computed = {name: entry for name, entry in checkpoint.tensors.items() if _is_computed(entry)}
    if not computed or folder is None:
        return checkpoint
    try:
        file = folder.file(checkpoint.path, quant, rank, lambda: on_progress(0.0))
        weights = _weights(file) or _pack(folder, file, computed, on_progress)
    except OSError as error:
        log.warning("weights are not packed: %s", error)
        return checkpoint
    found = {
        name: PackedEntry(file, computed[name], weights[name]) for name in computed.keys() & weights.keys()
    }
    return replace(checkpoint, tensors=checkpoint.tensors | found)


def _is_computed(entry: TensorEntry) -> bool:
    whole = entry.whole if isinstance(entry, PartEntry) else entry
    return isinstance(whole, (InSituEntry, QuantizedEntry))


def _weights(file: Path) -> dict[str, PackedWeight] | None:
    """Return what a packed file has; None if it is not there, or damaged."""
    if not file.exists():
        return None
    try:
        return read_weights(file)
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s) and made again", file, error)
        return None


def _pack(
    folder: PackedFolder, file: Path, computed: _Entries, on_progress: OnProgress
) -> dict[str, PackedWeight]:
    folder.make_room(sum(entry.loaded_bytes(0) for entry in computed.values()))
    with written(file) as stream:
        write_weights(stream, _read(computed, on_progress))
    log.info("weights are packed", extra={"file": str(file), "mib": file.stat().st_size >> 20})
    return read_weights(file)


def _read(computed: _Entries, on_progress: OnProgress) -> Iterator[tuple[str, StoredWeight]]:
    """Yield the weights that are not the mapped files' own bytes."""
    total, done = sum(entry.num_bytes for entry in computed.values()), 0
    with ExitStack() as exits:
        files = OpenFiles(exits, lambda: on_progress(_SHARE * done / total))
        for name, entry in computed.items():
            weight = entry.read(files)
            done += entry.num_bytes
            files.pause()
            if isinstance(weight, StoredWeight) and not all(map(mapping_of, weight.matrix.blocks)):
                yield name, weight
