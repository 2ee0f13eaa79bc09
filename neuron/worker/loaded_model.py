"""A model's weights and what is known of them: all of it that stays while it is asleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron.device.page_pool import Coding
from neuron.models.decoder import AnyDecoder
from neuron.models.embedder import Embedder
from neuron.models.mapped_file import MappedFile
from neuron.models.memory_estimate import MemoryEstimate
from neuron.models.tensor_parallel.sizes import Rank

MIB = 1 << 20

Origin = tuple[Path, str | None, Coding | None, Rank | None, Path | None]
"""A model's path, how it was quantized, its pages' coding, its rank, and the path of its draft model."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as it was loaded, before pages and requests."""

    path: Path
    quant: str | None
    module: AnyDecoder | Embedder
    num_bytes: int  # measured, of its weights
    stored: tuple[str, float]  # the format of most of its weights, and bits per weight
    files: Sequence[MappedFile]  # that its weights are read from at every step
    estimate: MemoryEstimate | None = None  # of a decoder
    coding: Coding | None = None  # of its pages
    rank: Rank | None = None  # of a group, of whose model it is a part
    draft: LoadedModel | None = None  # a smaller one that drafts its answers; `num_bytes` has its weights

    @property
    def origin(self) -> Origin:
        """What it was loaded from, and how."""
        return self.path, self.quant, self.coding, self.rank, self.draft.path if self.draft else None

    @property
    def damage(self) -> str | None:
        """What has become of a file that the weights are in, with its cure; None while all are whole."""
        for file in (*self.files, *(self.draft.files if self.draft else ())):
            if found := file.damage():
                return f"{file.path} {found} while it was in use; unload the model and load it again"
        return None

    @property
    def memory_mb(self) -> int:
        return -(-self.num_bytes // MIB)
