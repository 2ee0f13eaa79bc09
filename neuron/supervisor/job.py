from __future__ import annotations

from dataclasses import dataclass, field

from neuron import pipe


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom something is generated, as the gateway says; see `neuron.engine.waiting_queue`."""

    principal: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate: `pipe.Submit` without the number."""

    model: str
    tokens: list[int]
    max_tokens: int
    sampling: pipe.Sampling
    stop_ids: list[int]
    min_tokens: int = 0
    ignore_eos: bool = False
    score_prompt: bool = False
    guide: pipe.Guide | None = None
    caller: Caller = Caller()
    marks: list[tuple[int, int]] = field(default_factory=list)
    images: list[pipe.Shown] = field(default_factory=list)
