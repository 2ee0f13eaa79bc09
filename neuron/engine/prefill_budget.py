"""How many prompt tokens may run beside streams, from what recent steps have cost."""

from __future__ import annotations

from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.engine.throughput import Throughput

# Beside streams, prompts run in multiples of this: oneDNN builds a kernel for each number of tokens.
_PROMPT_STRIDE = 16
_FEWEST = 8  # of a prompt, where a stride of them would take twice the time that there is
_HALF_LIFE_S = 1.0  # of work: how quickly the budget follows what steps cost
_ALONE_S = 0.1  # of a turn without streams: a request that comes meanwhile waits for its end


def turn_s(limits: SchedulerLimits, streams_s: float) -> float:
    """Return for how long the device may compute what can be stopped, beside streams whose steps take
    `streams_s`."""
    return (limits.max_step_stretch - 1) * streams_s or _ALONE_S


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

        With streams, that is as many as `max_step_stretch` leaves time for, but a few in any case.
        """
        budget = self._limits.step_tokens - num_decoding
        if not num_decoding or not self.bare_s:
            return budget
        seconds = (self._limits.max_step_stretch - 1) * self.bare_s
        steady = int(seconds * self._prompt_tokens.per_second)
        least = _FEWEST if 2 * steady < _PROMPT_STRIDE else _PROMPT_STRIDE
        return min(budget, max(steady // _PROMPT_STRIDE * _PROMPT_STRIDE, least))

    @property
    def bare_s(self) -> float:
        """Seconds that a step without prompts takes; 0 while that is not known."""
        return 1 / self._bare_steps.per_second if self._bare_steps.per_second else 0.0

    def observe(self, prefilled: int, decoded: int, seconds: float, encoding_s: float = 0.0) -> None:
        """Take in a step that ran so many tokens of prompts and of answers, and encoded for `encoding_s`."""
        seconds = max(0.0, seconds - encoding_s)
        if decoded:
            self.decode.add(decoded, seconds)
        if not prefilled:
            if decoded and not encoding_s:  # which leaves the caches cold
                self._bare_steps.add(1, seconds)
            return
        self.prefill.add(prefilled, seconds)
        bare_s = self.bare_s if decoded else 0.0
        # At least a tenth of the step: the measured bare step may have been slower than this one.
        self._prompt_tokens.add(prefilled, max(seconds - bare_s, seconds / 10))
