"""The limits of one model's scheduler, for answers and embeddings alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """How many requests at once, how long they wait, how large a step is."""

    max_running: int = 32  # requests
    max_waiting: int = 256  # requests
    max_wait_s: float = 600.0  # until a request first runs
    step_tokens: int = 512  # run in one step, over all requests
    max_step_stretch: float = 2.0  # a step with prompts takes at most about this many times one without

    @property
    def max_logit_rows(self) -> int:
        """The most logits of one step: of a full batch, and as many again of prompts that are scored."""
        return 2 * self.max_running

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 0 or self.max_wait_s <= 0:
            raise ValueError("max_running and max_wait_s must be positive, max_waiting not negative")
        if self.max_step_stretch <= 1:
            raise ValueError("max_step_stretch must exceed 1, or prompts would never run")
        if self.step_tokens <= self.max_running:
            raise ValueError(f"step_tokens ({self.step_tokens}) must exceed max_running ({self.max_running})")
