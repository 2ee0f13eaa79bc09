"""A model in the device's memory, and what the device's loop needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neuron.device.memory import MIB
from neuron.engine.request import GrammarMatcher, LoadedAdapter
from neuron.models.adapters.bank import AdapterBank
from neuron.models.image_input import ImageProcessor
from neuron.pipe import Embed, Finished, Loaded, ModelStatus, Refused, Submit, ToDaemon
from neuron.step import CacheShape, PromptImage
from neuron.worker.loaded_model import LoadedModel
from neuron.worker.rank_link import FollowingRunner, RankLink


class RequestScheduler(Protocol):
    """What the device's loop needs of a scheduler. Plans and results pass between it and its runner only."""

    model: str

    @property
    def request_type(self) -> type[Submit | Embed]:
        """The type of the requests it takes."""
        ...

    @property
    def has_work(self) -> bool: ...

    def submit(
        self,
        message: Any,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        adapter: LoadedAdapter | None = None,
        /,
    ) -> Refused | None: ...

    def cancel(self, request_id: int) -> Finished | None: ...

    def expire(self, now: float) -> list[Refused]: ...

    def end_all(self, code: str, message: str, retry_after_s: int) -> list[Refused]: ...

    def reset_cache(self) -> None: ...

    @property
    def stream_s(self) -> float:
        """How long its streams wait for a step of it alone; 0 without streams."""
        ...

    def plan(self, others_s: float, /) -> Any:
        """Return the next step, which alternates with steps of others' streams that take `others_s`."""
        ...

    def apply(self, plan: Any, result: Any, seconds: float, /) -> Sequence[ToDaemon]: ...

    def fail(self, plan: Any, message: str) -> list[Refused]: ...

    def status(self) -> ModelStatus: ...


class StepRunner(Protocol):
    """What the device's loop needs of a runner: it runs the plans of its scheduler."""

    shape: CacheShape

    def run(self, plan: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """One model in the device's memory, able to answer."""

    loaded: LoadedModel
    scheduler: RequestScheduler
    runner: StepRunner
    num_bytes: int  # measured for the weights, reserved for the cache
    needed_bytes: int  # the least free memory with which it could have been loaded
    kv_dtype: str | None = None  # of its pages; None: it has none
    state_bytes: int = 0  # of `num_bytes`
    link: RankLink | None = None  # to the other ranks of a group, of which it is a part

    @property
    def wake(self) -> int | None:
        """What becomes readable with a plan of rank 0; None where plans are made here."""
        return self.link.wake if self.link else None

    @property
    def is_next_told(self) -> bool:
        """Whether rank 0 has told another plan, or does in a moment."""
        return self.link is not None and self.link.is_next_told()

    def follow(self) -> None:
        """Compute a part of the plan that rank 0 has told. Raises GroupLostError, PoisonedError."""
        assert isinstance(self.runner, FollowingRunner)
        self.runner.follow()

    @property
    def adapters(self) -> AdapterBank | None:
        """Those over it; None where its layers take none."""
        bank: AdapterBank | None = getattr(self.loaded.module, "adapters", None)
        return bank

    @property
    def adapter_bytes(self) -> int:
        return self.adapters.num_bytes if self.adapters else 0

    @property
    def path(self) -> Path:
        return self.loaded.path

    @property
    def damage(self) -> str | None:
        return self.loaded.damage

    @property
    def image_processor(self) -> ImageProcessor | None:
        """That of a vision model."""
        return getattr(self.loaded.module, "image_processor", None)

    def announcement(self, model: str, took_s: float, *, was_asleep: bool) -> Loaded:
        """Return what the daemon is told of the model under its name, which was here after `took_s`."""
        processor = self.image_processor
        return Loaded(
            model,
            self.memory_mb,
            self.needed_mb,
            self.runner.shape.context,
            getattr(self.runner, "dimensions", None),
            processor.token if processor else None,
            *self.loaded.stored,
            self.kv_dtype,
            took_s,
            was_asleep,
            ranks=getattr(self.runner, "ranks", False),
            memory_parts=self.memory_parts,
            video_token=processor.video_token if processor else None,
        )

    @property
    def memory_parts(self) -> dict[str, int]:
        """What its memory is for, MiB: weights, those of what drafts for it, keys and values (kv), states.

        What is nothing is left out.
        """
        kept = self.num_bytes - self.loaded.num_bytes - self.state_bytes
        draft = self.loaded.draft_bytes
        own = self.loaded.num_bytes - draft
        parts = {"weights": own, "draft": draft, "kv": kept, "states": self.state_bytes}
        return {name: -(-size // MIB) for name, size in parts.items() if size > 0}

    @property
    def needed_mb(self) -> int:
        return -(-self.needed_bytes // MIB)

    @property
    def memory_mb(self) -> int:
        return -(-self.num_bytes // MIB)
