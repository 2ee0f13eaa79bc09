"""The bounds of one model's engine, whatever it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """How much at once, and for how long."""

    max_running: int = 32
    max_waiting: int = 256
    max_wait_s: float = 600.0  # before a request first runs
    step_tokens: int = 512  # run in one step, over all requests
    max_step_stretch: float = (
        2.0  # a step that also reads prompts takes about so many times one that only decodes
    )

    @property
    def max_logit_rows(self) -> int:
        """Logits one step makes at most: of a full batch, and as many again of prompts that are scored."""
        return 2 * self.max_running

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 0 or self.max_wait_s <= 0:
            raise ValueError("max_running and max_wait_s must be positive, max_waiting not negative")
        if self.max_step_stretch <= 1:
            raise ValueError("max_gap must exceed 1, or prompts would never be read")
        if self.step_tokens <= self.max_running:
            raise ValueError(f"step_tokens ({self.step_tokens}) must exceed max_running ({self.max_running})")
