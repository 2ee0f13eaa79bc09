"""One rank's end of a device group: what it shares with the others, and how a step goes through all.

    rank 0                                      the others
    plan -> segment, a byte into each pipe      the channel sees the byte: `PlanReady` among its messages
    computes its part, adds up with the others  read the plan, compute theirs, add up
    samples, answers                            wait for the next message

A rank whose step fails ends the group, and so does one that waits for another too long: whoever waits gives
up, and the daemon loads the model again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from typing import Protocol, TypeVar, runtime_checkable

from neuron.device.collective import (
    Collective,
    GroupLostError,
    hear_plan,
    make_collective,
    tell_plan,
    use_collective,
)
from neuron.device.guessing import GuessingRunner
from neuron.device.model_runner import ModelRunner
from neuron.device.startup import Device
from neuron.models.checkpoint import ModelLoadError
from neuron.models.tensor_parallel.rank import RankDecoder
from neuron.models.tensor_parallel.sizes import Rank
from neuron.models.weights import OnProgress
from neuron.pipe import GroupRank
from neuron.segment import SharedSegment
from neuron.step import CacheShape, NotNumbersError, PoisonedError, StepPlan, StepResult
from neuron.worker.rank_plan import CandidateCount, decode_plan, encode_plan

_POLL_S = 0.001
_PLAN_US = 4000  # to wait for the next plan alone; in a step messages wait as long
_NUMBERS = 1 << 32
T = TypeVar("T")


class RankLink:
    """A rank's end of a group, from the load of its part to the unload."""

    def __init__(self, place: GroupRank) -> None:
        self.place = place
        self._segment = _open(place)
        self._collective: Collective | None = None
        self._wakes: list[int] = []
        self._number = 0  # of the last plan that this rank told or heard
        self._told: tuple[bytes, int] | None = None  # the next one and when it was told

    @property
    def is_first(self) -> bool:
        return self.place.index == 0

    @property
    def rank(self) -> Rank:
        return Rank(self.place.index, self.place.size)

    @property
    def wake(self) -> int | None:
        """The file descriptor that becomes readable with a plan; None on rank 0."""
        return None if self.is_first else self._wakes[0]

    # --- the load -------------------------------------------------------------------------------------

    def checking(self, on_progress: OnProgress) -> OnProgress:
        """Return what reports progress until another rank fails: then it raises ModelLoadError."""

        def report(fraction: float) -> None:
            self._check()
            on_progress(fraction)

        return report

    def fail(self, error: BaseException) -> None:
        """End the group since this rank's load failed."""
        self._segment.abort(f"rank {self.place.index} failed: {error}")
        self.close()

    def _check(self) -> None:
        if reason := self._segment.reason:
            raise ModelLoadError("group_failed", reason)

    def agree(self, shape: CacheShape, pause: Callable[[], None]) -> CacheShape:
        """Return the shape that all ranks have room for, once all are loaded; meanwhile call `pause`.

        Raises ModelLoadError when another rank fails.
        """
        self._segment.offer(self.place.index, astuple(shape))
        while (offers := self._segment.offers()) is None:
            self._check()
            pause()
            time.sleep(_POLL_S)
        pages, sizes, *others = zip(*offers, strict=True)
        if len(set(sizes)) > 1:
            raise ModelLoadError("model_unsupported", f"its ranks have pages of {sorted(set(sizes))} tokens")
        return CacheShape(min(pages), sizes[0], *map(min, others))

    def connect(self, device: Device) -> None:
        """Open what steps need. All ranks do so at about the same time. Raises ModelLoadError."""
        place = self.place
        try:
            self._collective = make_collective(
                self._segment, place.store, place.index, timeout_s=place.timeout_s, device=device
            )
            mode = (os.O_WRONLY if self.is_first else os.O_RDONLY) | os.O_NONBLOCK
            paths = place.wakes[1:] if self.is_first else place.wakes[place.index : place.index + 1]
            self._wakes = [os.open(path, mode) for path in paths]
        except (OSError, RuntimeError) as error:
            raise ModelLoadError("group_failed", f"the ranks do not find each other: {error}") from error

    # --- steps ----------------------------------------------------------------------------------------

    def runner(
        self, runner: ModelRunner | GuessingRunner, decoder: RankDecoder
    ) -> LeadingRunner | FollowingRunner:
        """Return what runs the group's plans on this rank."""
        if self.is_first:
            return LeadingRunner(runner, decoder, self)
        assert isinstance(runner, RankRunner)
        return FollowingRunner(runner, decoder, self)

    def tell(self, plan: StepPlan, num_candidates: int) -> None:
        """Tell the others a plan."""
        started = time.monotonic_ns()
        self._number = self._next
        asleep = tell_plan(self._segment, encode_plan(plan, num_candidates), self._number)
        for rank, wake in enumerate(self._wakes, 1):
            if asleep >> rank & 1:
                with suppress(BlockingIOError):  # it has a byte that is not read yet
                    os.write(wake, b"!")
        self._segment.note_overhead(0, time.monotonic_ns() - started)

    def hear(self) -> tuple[int, StepPlan] | None:
        """Return how many candidates are gathered in the step that rank 0 has told, and its plan.

        None if that has been heard already.
        """
        heard = self._told or hear_plan(self._segment, self.place.index, self._next)
        if heard is None:
            return None
        self._number, self._told = self._next, None
        data, written_ns = heard
        told = decode_plan(data)
        plan = told.step_plan()
        self._segment.note_overhead(self.place.index, time.monotonic_ns() - written_ns)
        return told.num_candidates, plan

    def is_next_told(self) -> bool:
        """Return whether rank 0 has told another plan, or does within the moment that it takes to sample.

        To be woken by the channel takes longer than that.
        """
        self._told = hear_plan(self._segment, self.place.index, self._next, _PLAN_US)
        return self._told is not None

    @property
    def _next(self) -> int:
        return (self._number + 1) % _NUMBERS

    def guard(self, compute: Callable[[], T]) -> T:
        """Return what `compute` comes to with the others. A failure ends the group: they would wait."""
        assert self._collective
        try:
            with use_collective(self._collective):
                return compute()
        except (GroupLostError, NotNumbersError):  # the latter once all have computed their parts
            raise
        except Exception as error:
            self._segment.abort(
                f"the step failed on rank {self.place.index}: {type(error).__name__}: {error}"
            )
            if isinstance(error, PoisonedError):
                raise
            raise GroupLostError(self._segment.reason or "") from error

    def close(self) -> None:
        """Give up everything; no other rank is waited for."""
        self._segment.abort("the model was unloaded")
        if self._collective:
            self._collective.close()
        while self._wakes:
            os.close(self._wakes.pop())


@contextmanager
def joining(place: GroupRank | None) -> Iterator[RankLink | None]:
    """Open a rank's link for the load inside the block, which ends the group if it fails."""
    if place is None:
        yield None
        return
    link = RankLink(place)
    try:
        yield link
    except BaseException as error:
        link.fail(error)
        raise


def _open(place: GroupRank) -> SharedSegment:
    try:
        return SharedSegment.open(place.memory, place.size)
    except OSError as error:
        raise ModelLoadError("group_failed", f"the group is gone: {error}") from error


@runtime_checkable
class RankRunner(Protocol):
    """What computes the part of a rank that samples nothing."""

    shape: CacheShape

    def follow(self, plan: StepPlan) -> None: ...


class LeadingRunner:
    """Runs the plans of the group's scheduler, on rank 0."""

    def __init__(self, runner: ModelRunner | GuessingRunner, decoder: RankDecoder, link: RankLink) -> None:
        self.shape = runner.shape
        self._runner = runner
        self._decoder = decoder
        self._link = link
        self._candidates = CandidateCount(runner.shape.num_slots)

    def run(self, plan: StepPlan) -> StepResult:
        """Return what the plan's draws and scores came to. Raises GroupLostError, PoisonedError."""
        count = self._candidates.count(plan)
        self._decoder.num_candidates = count
        self._link.tell(plan, count)
        return self._link.guard(lambda: self._runner.run(plan))


class FollowingRunner:
    """Runs the plans that rank 0 tells, on another rank."""

    def __init__(self, runner: RankRunner, decoder: RankDecoder, link: RankLink) -> None:
        self.shape = runner.shape
        self._runner = runner
        self._decoder = decoder
        self._link = link

    def follow(self) -> None:
        """Compute this rank's part of the last plan, unless it has. Raises like `LeadingRunner.run`."""
        if heard := self._link.hear():
            self._decoder.num_candidates, plan = heard
            self._link.guard(lambda: self._runner.follow(plan))

    def run(self, plan: object) -> StepResult:
        """Never called: there is no plan but rank 0's."""
        raise AssertionError(plan)
