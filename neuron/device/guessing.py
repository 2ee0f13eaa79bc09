"""What runs a model's steps and guesses on the device how its answers go on."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from neuron.device.collective import GroupLostError
from neuron.device.model_runner import ModelRunner
from neuron.step import PoisonedError, StepPlan, StepResult

T = TypeVar("T")

log = logging.getLogger("neuron.device")


class GuessingRunner(ABC):
    """Runs a model's plans like its own `runner`, and then guesses, until that fails once."""

    drafter: str  # what guesses, for the log

    def __init__(self, runner: ModelRunner) -> None:
        self.shape = runner.shape
        self._runner = runner
        self._is_off = False

    def run(self, plan: StepPlan) -> StepResult:
        """Return what `plan` came to, with guesses. Raises PoisonedError like `ModelRunner.run`."""
        result = self._runner.run(plan)
        guesses = self._trying(partial(self._guess, plan, result))
        return replace(result, guesses=guesses) if guesses else result

    @torch.inference_mode()
    def _trying(self, part: Callable[[], T]) -> T | None:
        """Return what a part of guessing comes to; None once one has failed."""
        if self._is_off:
            return None
        try:
            return part()
        except (PoisonedError, GroupLostError):
            raise
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        except Exception as error:  # noqa: BLE001 - whatever it is, answers may go on
            self._give_up(error)
        return None

    def _give_up(self, error: Exception) -> None:
        """Guess no more, since that has failed."""
        log.error("%s failed; it guesses no more", self.drafter, extra={"cause": str(error)}, exc_info=error)
        self._is_off = True

    @abstractmethod
    def _guess(self, plan: StepPlan, result: StepResult) -> Mapping[int, tuple[int, ...]]:
        """Return `StepResult.guesses` of a plan that came to a result without any."""
