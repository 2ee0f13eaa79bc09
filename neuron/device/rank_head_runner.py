"""A multi-token head whose layer is split over the ranks of a group, as the model's layers are.

All ranks have the model's hidden states, since its last sum gives each the same, and what is late of them.
What rank 0 samples they hear of it after each step, so all read the same with the head, and each knows what
all of them guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neuron.device.collective import sum_ranks
from neuron.device.head_runner import HeadRunner
from neuron.step import NotNumbersError, StepPlan, StepResult


class RankHeadRunner(HeadRunner):
    """Runs the plans of a group with a head on one of its ranks: `run` on the first, `follow` on others.

    What fails on a rank ends the group: the others wait for it.
    """

    def run(self, plan: StepPlan) -> StepResult:
        """Return what `plan` came to, with guesses. Raises like `HeadRunner.run`."""
        is_idle = self._is_idle(plan)
        try:
            return super().run(plan)
        except NotNumbersError:  # the others have computed their parts, and wait for what was sampled
            if not is_idle:
                self._tell(plan, None)
            raise

    @torch.inference_mode()
    def follow(self, plan: StepPlan) -> None:
        """Compute this rank's part of a plan and of its guesses."""
        if self._is_idle(plan):
            self._runner.follow(plan)
            return
        self._trying(lambda: self._read_leaving(plan))
        self._runner.follow(plan)
        self._trying(lambda: self._hear(plan))

    def _hear(self, plan: StepPlan) -> None:
        if (ends := self._tell(plan, None)) is not None:
            self._guess_after(plan, ends)

    def _ends(self, plan: StepPlan, result: StepResult) -> list[tuple[int, ...]]:
        return self._tell(plan, super()._ends(plan, result)) or []

    def _tell(self, plan: StepPlan, ends: Sequence[tuple[int, ...]] | None) -> list[tuple[int, ...]] | None:
        """Return what follows the chunks of a plan, which rank 0 knows. None: it has come to nothing.

        The sum of what it knows and of nothing is on every rank. Float32 holds every token's id.
        """
        rooms = [len(chunk.checks) + 1 for chunk in plan.chunks]
        numbers = [0] * (1 + sum(rooms))
        if ends is not None:
            padded = (end + (-1,) * (room - len(end)) for end, room in zip(ends, rooms, strict=True))
            numbers = [1, *(token + 1 for end in padded for token in end)]
        told = torch.tensor(numbers, dtype=torch.float32, device=self._runner.table.pages.device)
        is_known, *heard = (int(number) for number in sum_ranks(told).tolist())
        if not is_known:
            return None
        left = iter(heard)
        return [tuple(t - 1 for t in (next(left) for _ in range(room)) if t) for room in rooms]

    def _give_up(self, error: Exception) -> None:
        raise error
