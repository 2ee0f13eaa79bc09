"""How many prompt tokens may run beside streams, by what steps have cost lately."""

from __future__ import annotations

from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput

# Beside streams prompts run in multiples of it: oneDNN makes a kernel for each number of tokens.
_PROMPT_STRIDE = 16
_PACE_S = 1.0  # of work: how quickly the pace of prompts follows what steps cost


class PrefillBudget:
    """Speeds of prefill and decode, and the budget that follows from them."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self.prefill, self.decode = Throughput(), Throughput()
        # What steps cost: those without prompts, and prompt tokens on top of that.
        self._bare_steps, self._prompt_tokens = Throughput(_PACE_S), Throughput(_PACE_S)

    def tokens(self, num_decoding: int) -> int:
        """Prompt tokens that may run beside `num_decoding` streams: as many as `max_gap` leaves time for."""
        budget = self._limits.step_tokens - num_decoding
        if not num_decoding or not self._bare_steps.per_second:
            return budget
        seconds = (self._limits.max_step_stretch - 1) / self._bare_steps.per_second
        steady = int(seconds * self._prompt_tokens.per_second) // _PROMPT_STRIDE * _PROMPT_STRIDE
        return min(budget, max(steady, _PROMPT_STRIDE))

    def observe(self, prefilled: int, decoded: int, seconds: float) -> None:
        """A step ran so many tokens of prompts and of answers."""
        if decoded:
            self.decode.add(decoded, seconds)
        if not prefilled:
            self._bare_steps.add(1, seconds)
            return
        self.prefill.add(prefilled, seconds)
        bare = 1 / self._bare_steps.per_second if decoded and self._bare_steps.per_second else 0.0
        # Never less than a tenth: a measured bare step may have been slower than this one.
        self._prompt_tokens.add(prefilled, max(seconds - bare, seconds / 10))
