"""Requests are submitted, cancelled and shed in any order; each must get its text and end exactly once."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from neuron.engine.drafter import DeviceDrafter, Drafter, DraftSource, NgramDrafter
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Finished, Refused, Sampling, Submit, Tokens
from neuron.step import CacheShape, PromptImage
from tests.engine.fake_device import VOCAB, FakeDevice, continuation


class Serving(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(5, 14),
        slots=st.integers(1, 5),
        spare=st.integers(1, 9),
        snapshots=st.integers(0, 4),
        rows=st.integers(0, 6),
        kept=st.integers(0, 3),
        drafts=st.sampled_from([0, 0, 1, 3, 15]),
        drafter=st.sampled_from([NgramDrafter, DeviceDrafter]),
    )
    def start(
        self,
        pages: int,
        slots: int,
        spare: int,
        snapshots: int,
        rows: int,
        kept: int,
        drafts: int,
        drafter: Callable[[], Drafter],
    ) -> None:
        shape = CacheShape(pages, 3, slots, min(30, pages * 3), snapshots, rows, kept)
        limits = SchedulerLimits(max_running=slots, max_waiting=6, max_wait_s=10, step_tokens=slots + spare)
        self.scheduler = Scheduler(
            "m",
            shape,
            vocab_size=VOCAB,
            limits=limits,
            has_states=bool(snapshots),
            drafts=DraftSource(drafter, drafts) if drafts else None,
        )
        self.device = FakeDevice(shape)
        self.submitted: dict[int, Submit] = {}
        self.told: dict[int, list[int]] = {}
        self.ends: dict[int, Finished | Refused] = {}
        self.broken: set[int] = set()  # requests with an image that cannot be encoded
        self.now = 0.0

    # Few prefixes, so that they are shared.
    @rule(
        head=st.sampled_from([0, 3, 6, 9, 12]),
        tail=st.lists(st.integers(0, 1), max_size=9),
        max_tokens=st.integers(1, 20),
        stop_ids=st.lists(st.integers(0, VOCAB - 1), max_size=3),
        principal=st.sampled_from("ab"),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        shown=st.lists(st.integers(0, 3), max_size=2),
    )
    def submit(
        self,
        head: int,
        tail: list[int],
        max_tokens: int,
        stop_ids: list[int],
        principal: str,
        priority: int,
        shown: list[int],
    ) -> None:
        number = len(self.submitted)
        request = Submit(
            number, "m", [7] * head + tail, max_tokens, Sampling(), stop_ids,
            principal=principal, priority=priority,
        )  # fmt: skip
        self.submitted[number], self.told[number] = request, []
        places = range(1, len(request.tokens) - 2, 4)
        images = [
            PromptImage((at, at + 2), bytes([digest])) for at, digest in zip(places, shown, strict=False)
        ]
        self.broken |= {number} if any(not image.digest[0] for image in images) else set()
        if refused := self.scheduler.submit(request, self.now, images=images):
            self.end(refused)

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            plan = self.scheduler.plan()
            if plan is None:
                return
            assert plan.num_tokens <= self.scheduler.limits.max_step_tokens
            for event in self.scheduler.apply(plan, self.device.run(plan), 0.1):
                if isinstance(event, Tokens):
                    assert event.id not in self.ends
                    self.told[event.id] += event.tokens
                else:
                    self.end(event)

    @rule()
    def fail(self) -> None:
        plan = self.scheduler.plan()
        if plan is not None and not plan.slots:  # the device ends an encoding, which cannot fail
            assert self.scheduler.apply(plan, self.device.run(plan), 0.1) == []
        elif plan is not None:
            for refused in self.scheduler.fail(plan, "broke"):
                self.end(refused)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.submitted:
            finished = self.scheduler.cancel(data.draw(st.sampled_from(sorted(self.submitted))))
            if finished:
                self.end(finished)

    @rule(seconds=st.sampled_from([1.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for refused in self.scheduler.expire(self.now):
            self.end(refused)

    def end(self, event: Finished | Refused) -> None:
        assert event.id not in self.ends
        self.ends[event.id] = event
        if isinstance(event, Finished):
            assert event.reason == "cancelled" or event.id not in self.broken
            assert event.cached_tokens < event.prompt_tokens
            assert event.prompt_tokens == len(self.submitted[event.id].tokens)

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    @invariant()
    def texts_are_right(self) -> None:
        for number, told in getattr(self, "told", {}).items():
            request = self.submitted[number]
            whole = continuation(request.tokens, 20, frozenset(request.stop_ids))
            assert told == whole[: len(told)]

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if self.scheduler.has_work:
                self.step(1)
        assert not self.scheduler.has_work
        assert self.ends.keys() == self.submitted.keys()
        assert self.device.begun is None
        assert self.scheduler.pages.num_available == self.scheduler.shape.num_pages
        self.scheduler.pages.clear_cached()
        self.scheduler.check()


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
