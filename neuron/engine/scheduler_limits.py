"""The limits of one model's scheduler, for answers and embeddings alike."""

from __future__ import annotations

from dataclasses import dataclass

# Of a step with drafts, its answers' own rows included: more cost as much time as the drafts save.
MOST_DRAFT_ROWS = 16
LAST_TOKENS = 32  # this part of what prompts may run in a step is few


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """How many requests at once, how long they wait, how large a step is."""

    max_running: int = 32  # requests
    max_waiting: int = 256  # requests
    max_wait_s: float = 600.0  # until a request first runs
    step_tokens: int = 512  # run in one step, over all requests, but for the last few of a prompt
    max_step_stretch: float = 2.0  # a step with prompts takes at most about this many times one without

    @property
    def max_step_tokens(self) -> int:
        """The most tokens of one step: the last tokens of a prompt go along if they are few."""
        return self.step_tokens + self.step_tokens // LAST_TOKENS

    @property
    def max_logit_rows(self) -> int:
        """The most logits of one step: of what is sampled, and of a full batch of prompts that are scored."""
        return self.max_drawn_rows + self.max_running

    @property
    def max_drawn_rows(self) -> int:
        """The most tokens that are sampled in one step."""
        return max(self.max_running, MOST_DRAFT_ROWS)

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 0 or self.max_wait_s <= 0:
            raise ValueError("max_running and max_wait_s must be positive, max_waiting not negative")
        if self.max_step_stretch <= 1:
            raise ValueError("max_step_stretch must exceed 1, or prompts would never run")
        if self.step_tokens <= self.max_running:
            raise ValueError(f"step_tokens ({self.step_tokens}) must exceed max_running ({self.max_running})")
