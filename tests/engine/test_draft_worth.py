"""Whether guesses go on follows from what they cost and save."""

from __future__ import annotations

from neuron.engine.draft_worth import DraftWorth
from neuron.engine.drafter import DeviceDrafter, DraftSource, NgramDrafter, draft_source
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.pipe import Finished, Sampling, Submit, Tokens
from neuron.step import CacheShape, Chunk, Draw, StepPlan, StepResult
from tests.engine.fake_device import FakeDevice

DRAW = Draw(0.0)
PLAIN = Chunk(0, (1,), 9, draw=DRAW)
ASKING = Chunk(0, (1,), 9, draw=DRAW, num_guesses=1)
CHECKING = Chunk(0, (1, 2), 9, draw=DRAW, checks=(DRAW,), num_guesses=1)
SHAPE = CacheShape(num_pages=400, page_size=8, num_slots=4, context=2400)
NEW = 1500


def test_nothing_is_asked_before_a_step_without_guesses_was_measured():
    worth = DraftWorth()
    assert worth.pays
    assert not worth.asks(1)
    worth.learn([PLAIN], [(5,)], 0.1)
    assert worth.asks(1)
    assert not worth.asks(2)


def test_guesses_that_are_wrong_stop_and_are_tried_again_later():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 0.1)
    wrong = 0
    while worth.pays:
        worth.learn([CHECKING], [(5,)], 0.2)
        wrong += 1
    assert 2 < wrong < 10
    pause = 0
    while not worth.pays:
        worth.learn([PLAIN], [(5,)], 0.1)
        pause += 1
    worth.learn([CHECKING], [(5,)], 0.2)
    worth.learn([PLAIN], [(5,)], 0.1)
    assert not worth.pays  # one is too much so soon
    while not worth.pays:
        worth.learn([PLAIN], [(5,)], 0.1)
        pause += 1
    assert pause > 60


def test_guesses_that_are_right_go_on_after_some_wrong_ones():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 0.1)
    for _ in range(50):
        worth.learn([CHECKING], [(2, 5)], 0.12)
    for _ in range(8):
        worth.learn([CHECKING], [(5,)], 0.2)
    assert worth.pays


def test_right_guesses_that_take_more_than_they_save_stop_too():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 0.1)
    for _ in range(20):
        worth.learn([CHECKING], [(2, 5)], 0.25)
    assert not worth.pays


def test_wrong_guesses_beside_prompts_stop_too():
    """Where each step has a piece of a prompt, no time is that of guesses alone."""
    worth, prompt = DraftWorth(), Chunk(1, (1, 2, 3), 0)
    wrong = 0
    for _ in range(1000):
        wrong += worth.pays
        worth.learn_beside_prompts([CHECKING if worth.pays else PLAIN, prompt], [(5,), ()])
    assert 10 < wrong < 60  # 8 at first, and then 1.5 % of the steps, each of which loses half of one


def test_right_guesses_beside_prompts_go_on():
    worth = DraftWorth()
    prompt = Chunk(1, (1, 2, 3), 0)
    for _ in range(100):
        worth.learn_beside_prompts([CHECKING, prompt], [(2, 5), ()])
    assert worth.pays


def test_a_step_that_was_held_up_decides_little():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 3.0)
    for _ in range(8):
        worth.learn([PLAIN], [(5,)], 0.1)
    for _ in range(30):
        worth.learn([CHECKING], [(2, 5)], 0.11)
    worth.learn([CHECKING], [(2, 5)], 60.0)
    assert worth.pays


def test_what_the_text_guesses_is_not_the_devices():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 0.1)
    by_text = Chunk(0, (1, 2), 9, draw=DRAW, checks=(DRAW,), is_followed=False)
    for _ in range(50):
        worth.learn([by_text], [(5,)], 0.5)
    assert worth.pays


def test_the_time_without_guesses_is_measured_again():
    worth = DraftWorth()
    worth.learn([PLAIN], [(5,)], 0.1)
    asked = 0
    while worth.asks(1):
        worth.learn([ASKING], [(5,)], 0.1)
        asked += 1
    assert asked >= 100
    worth.learn([PLAIN], [(5,)], 0.1)
    assert worth.asks(1)


class Wrong(FakeDevice):
    """Guesses what is never said."""

    def _guesses(self, chunk: Chunk, drawn: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-1 for _ in range(chunk.num_guesses))


def seconds_of(plan: StepPlan) -> float:
    """As if to guess, to check and to go back took as long as a step without each."""
    return sum(
        0.1 * (1 + len(c.checks) + bool(c.num_guesses) + (len(c.tokens) - 1) * c.rewinds) for c in plan.chunks
    )


class Answers:
    """One scheduler on a device whose guesses are wrong, and the time that its answers take."""

    def __init__(self, source: DraftSource | None) -> None:
        limits = SchedulerLimits(max_running=4, step_tokens=48)
        self.scheduler = Scheduler("m", SHAPE, vocab_size=50, limits=limits, drafts=source)
        self.device = Wrong(SHAPE)
        self.followed: list[bool] = []

    def answer(self, number: int) -> tuple[list[int], float]:
        sampling = Sampling()
        assert self.scheduler.submit(Submit(number, "m", [1, 2, 3 + number], NEW, sampling, []), 0.0) is None
        tokens: list[int] = []
        seconds = 0.0
        while self.scheduler.has_work:
            plan = self.scheduler.plan()
            assert plan is not None
            self.followed += [chunk.is_followed for chunk in plan.chunks]
            result: StepResult = self.device.run(plan)
            for event in self.scheduler.apply(plan, result, seconds_of(plan)):
                if isinstance(event, Tokens):
                    tokens += event.tokens
                else:
                    assert isinstance(event, Finished)
            seconds += seconds_of(plan)
        return tokens, seconds


def test_wrong_guesses_cost_a_small_part_of_the_time():
    plain, guessing = Answers(None), Answers(DraftSource(DeviceDrafter))
    for number in range(3):
        text, plain_s = plain.answer(number)
        found, guessing_s = guessing.answer(number)
        assert found == text
        assert plain_s > 0.97 * guessing_s
    assert guessing.scheduler.status().drafted > 3  # it was tried again
    assert guessing.followed[0]
    assert not guessing.followed[-1]


def test_the_text_guesses_where_the_device_does_not_pay():
    plain, guessing = Answers(None), Answers(draft_source("auto", 15, on_device=True))
    text, _ = plain.answer(0)
    found, _ = guessing.answer(0)
    assert found == text
    assert guessing.scheduler.status().accepted > 100


def test_only_auto_has_something_else_that_guesses():
    for speculation, other in (("auto", NgramDrafter), ("mtp", None), ("a/model", None)):
        source = draft_source(speculation, 15, on_device=True)
        assert source
        assert source.new_other is other
