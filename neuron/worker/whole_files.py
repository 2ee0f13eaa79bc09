"""The files that a model's weights are in, which may change while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from neuron.models.checkpoint import Checkpoint, model_broken
from neuron.models.mapped_file import MappedFile, still_mapped


def mapped_files(checkpoint: Checkpoint) -> list[MappedFile]:
    """Return the checkpoint's files that tensors view. Raises ModelLoadError for one that has changed."""
    files = still_mapped({entry.file for entry in checkpoint.entries})
    for file in files:
        if found := file.damage():
            raise model_broken(file.path, f"{found} while it was loaded")
    return files


@contextmanager
def whole_files(checkpoint: Checkpoint) -> Iterator[None]:
    """Give a load that fails since its files changed meanwhile this reason."""
    try:
        yield
    except Exception:
        mapped_files(checkpoint)
        raise
