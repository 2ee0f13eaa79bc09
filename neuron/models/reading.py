"""From a path to a checkpoint, whatever its files are."""

from __future__ import annotations

from pathlib import Path

from neuron.models.checkpoint import Checkpoint, read_directory
from neuron.models.gguf.checkpoint import read_gguf
from neuron.models.gguf.split_files import is_gguf
from neuron.models.quantized.schemes import read_quantized


def read_checkpoint(path: Path) -> Checkpoint:
    """Return all of a checkpoint but its weights. Raises ModelLoadError naming the file and what is wrong."""
    return read_gguf(path) if is_gguf(path) else read_quantized(read_directory(path))
