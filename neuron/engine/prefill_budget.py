"""How many prompt tokens may run beside streams, from what recent steps have cost."""

from __future__ import annotations

from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput

# Beside streams, prompts run in multiples of this: oneDNN builds a kernel for each number of tokens.
_PROMPT_STRIDE = 16
_HALF_LIFE_S = 1.0  # of work: how quickly the budget follows what steps cost


class PrefillBudget:
    """Measures prefill and decode throughput, and derives the budget from them."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self.prefill = Throughput()
        self.decode = Throughput()
        self._bare_steps = Throughput(_HALF_LIFE_S)  # steps without prompt tokens
        self._prompt_tokens = Throughput(_HALF_LIFE_S)  # over the time that they add to a bare step

    def tokens(self, num_decoding: int) -> int:
        """Return how many prompt tokens may run beside `num_decoding` streams.

        With streams, that is as many as `max_step_stretch` leaves time for.
        """
        budget = self._limits.step_tokens - num_decoding
        if not num_decoding or not self._bare_steps.per_second:
            return budget
        seconds = (self._limits.max_step_stretch - 1) / self._bare_steps.per_second
        steady = int(seconds * self._prompt_tokens.per_second) // _PROMPT_STRIDE * _PROMPT_STRIDE
        return min(budget, max(steady, _PROMPT_STRIDE))

    def observe(self, prefilled: int, decoded: int, seconds: float) -> None:
        """Take in a step that ran so many tokens of prompts and of answers."""
        if decoded:
            self.decode.add(decoded, seconds)
        if not prefilled:
            self._bare_steps.add(1, seconds)
            return
        self.prefill.add(prefilled, seconds)
        bare_s = 1 / self._bare_steps.per_second if decoded and self._bare_steps.per_second else 0.0
        # At least a tenth of the step: the measured bare step may have been slower than this one.
        self._prompt_tokens.add(prefilled, max(seconds - bare_s, seconds / 10))
