"""From a path to a checkpoint, whatever its files are."""

from __future__ import annotations

from pathlib import Path

from neuron.models.checkpoint import Checkpoint, read_directory
from neuron.models.quantized.schemes import read_quantized


def read_checkpoint(path: Path) -> Checkpoint:
    """Return all of a checkpoint but its weights. Raises ModelLoadError naming the file and what is wrong."""
    return read_quantized(read_directory(path))
