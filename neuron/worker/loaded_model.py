"""A model's weights and what is known of them: all of it that stays while it is asleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from neuron.device.model import DraftHead, HeadedModel
from neuron.device.page_pool import Coding
from neuron.models.decoder import AnyDecoder
from neuron.models.embedder import Embedder
from neuron.models.mapped_file import MappedFile
from neuron.models.memory_estimate import MemoryEstimate
from neuron.models.multi_token import HeadWish
from neuron.models.tensor_parallel.sizes import Rank

MIB = 1 << 20


class ModelOrigin(NamedTuple):
    """What a model is loaded from, and how."""

    path: Path
    quant: str | None = None  # how it is quantized
    coding: Coding | None = None  # of its pages
    rank: Rank | None = None
    draft: Path | None = None  # of its draft model
    wish: HeadWish = None


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
    wish: HeadWish = None
    head_bytes: int = 0  # of `num_bytes`, of the head that drafts its answers

    @property
    def origin(self) -> ModelOrigin:
        """What it was loaded from, and how."""
        draft = self.draft.path if self.draft else None
        return ModelOrigin(self.path, self.quant, self.coding, self.rank, draft, self.wish)

    @property
    def head(self) -> DraftHead | None:
        """What the model guesses ahead with."""
        return self.module.head if isinstance(self.module, HeadedModel) else None

    @property
    def draft_bytes(self) -> int:
        """Of `num_bytes`, those of what drafts its answers."""
        return self.head_bytes + (self.draft.num_bytes if self.draft else 0)

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
