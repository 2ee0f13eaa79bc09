"""Multi-token heads guess what they do by definition, and change no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.device.head_runner import HeadRunner
from neuron.engine.drafter import DeviceDrafter, Drafter, DraftSource
from neuron.models.decoder import AnyDecoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.pipe import Finished
from neuron.step import CacheShape, StepPlan, StepResult
from tests.device.heads import FAMILIES, ReferenceHead, TransformersHead, headed, save_with_head
from tests.device.kernels import TracingCapture, varlen
from tests.device.serving import GREEDY, Serving, prompt
from tests.device.test_draft_model import Failing
from tests.device.test_speculation import NEW, PROMPTS, RULES, shape_for, submit_all
from tests.device.zoo import VOCAB


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_head(tmp_path_factory.mktemp("model"), family)


@pytest.fixture(scope="module")
def with_head(path: Path) -> AnyDecoder:
    return headed(path)


@pytest.fixture(scope="module")
def alone(path: Path) -> AnyDecoder:
    return headed(path, None)


class Listening(DeviceDrafter):
    """Keeps what the device guesses, and always asks for as many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, list[int]]] = []

    def take(self, num_tokens: int, guesses: Sequence[int]) -> None:
        super().take(num_tokens, guesses)
        self.heard.append((num_tokens, list(guesses)))

    def ask(self, most: int) -> int:
        return most


def serving_with(loaded: AnyDecoder, shape: CacheShape, source: DraftSource | None = None) -> Serving:
    return headed_serving(Serving(loaded, shape, drafts=source or DraftSource(DeviceDrafter, 5)), loaded)


def headed_serving(serving: Serving, loaded: AnyDecoder) -> Serving:
    assert isinstance(loaded, FusedDecoder)
    assert loaded.head
    serving.runner = HeadRunner(serving.runner, loaded.head, vocab_size=VOCAB)  # type: ignore[assignment]
    return serving


def test_a_head_guesses_what_it_does_by_definition(family: str, with_head: AnyDecoder):
    listening = Listening()
    serving = serving_with(with_head, shape_for(with_head), DraftSource(lambda: listening, 3))
    tokens = prompt(5, 21)
    serving.submit(0, tokens, max_tokens=24)
    text = [*tokens, *serving.drain()[0]]
    reference = ReferenceHead(family)
    assert len(listening.heard) > 10
    for length, guesses in listening.heard:
        assert guesses == reference.guesses(text[:length], len(guesses))
    assert max(len(guesses) for _, guesses in listening.heard) == 3
    assert len({token for _, guesses in listening.heard for token in guesses}) > 8


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_the_definition_is_transformers_own(name: str):
    theirs, reference = TransformersHead(name), ReferenceHead(name)
    texts = [prompt(seed, 17) for seed in range(6)]
    assert [[theirs.guess(text)] for text in texts] == [reference.guesses(text, 1) for text in texts]


def test_the_steps_of_a_head_are_recorded(with_head: AnyDecoder, caplog: pytest.LogCaptureFixture):
    serving = serving_with(with_head, shape_for(with_head), DraftSource(Listening, 3))
    submit_all(serving, GREEDY)
    serving.drain()
    assert "cannot be recorded" not in caplog.text


class Unheard(DeviceDrafter):
    """Of a text that the device does not follow."""

    is_on_device = False


def test_a_text_that_is_not_followed_costs_its_head_nothing(sure: AnyDecoder):
    serving = serving_with(sure, shape_for(sure), DraftSource(Unheard, 5))
    runner: Any = serving.runner
    runner._head = failing = Failing(sure)
    submit_all(serving, GREEDY)
    assert serving.drain() == plain(sure).tokens
    assert not failing.calls


@pytest.mark.parametrize("rule", RULES)
def test_texts_are_those_without_a_head(with_head: AnyDecoder, alone: AnyDecoder, rule: str):
    plain = Serving(alone, shape_for(alone))
    drafted = serving_with(with_head, shape_for(with_head))
    for serving in (plain, drafted):
        submit_all(serving, RULES[rule])
    assert drafted.drain() == plain.drain()
    assert drafted.scheduler.status().drafted


@pytest.fixture(scope="module", params=["qwen3_5_text", "deepseek_v3", "glm4_moe"])
def sure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return headed(save_with_head(tmp_path_factory.mktemp("sure"), request.param, surely=True))


def plain(loaded: AnyDecoder) -> Serving:
    serving = Serving(loaded, shape_for(loaded))
    submit_all(serving, GREEDY)
    serving.drain()
    return serving


def test_a_head_that_is_right_saves_steps(sure: AnyDecoder):
    expected = plain(sure)
    serving = serving_with(sure, shape_for(sure))
    submit_all(serving, GREEDY)
    assert serving.drain() == expected.tokens
    status = serving.scheduler.status()
    assert status.accepted == status.drafted > 40
    assert serving.num_steps < 0.5 * expected.num_steps


def test_a_head_goes_on_after_a_preemption(sure: AnyDecoder):
    serving = serving_with(sure, shape_for(sure, num_pages=17))
    submit_all(serving, GREEDY)
    assert serving.drain() == plain(sure).tokens
    assert serving.num_joined > len(PROMPTS)
    status = serving.scheduler.status()
    assert status.accepted == status.drafted > 0


def test_a_head_knows_cached_prefixes(with_head: AnyDecoder, family: str):
    """Its keys and values are in the pages that a second request finds."""
    listening = Listening()
    sources = iter([DeviceDrafter(), listening])
    serving = serving_with(with_head, shape_for(with_head), DraftSource(lambda: next(sources), 3))
    tokens = prompt(9, 33)
    serving.submit(0, tokens, max_tokens=4)
    serving.drain()
    serving.submit(1, tokens, max_tokens=20)
    text = [*tokens, *serving.drain()[1]]
    end = serving.ends[1]
    assert isinstance(end, Finished)
    assert end.cached_tokens >= 24
    reference = ReferenceHead(family)
    assert listening.heard
    for length, guesses in listening.heard:
        assert guesses == reference.guesses(text[:length], len(guesses))


def test_a_head_knows_the_text_of_a_request_that_joins_before_its_first_chunk(
    with_head: AnyDecoder, family: str
):
    """As one does whose images are encoded first."""
    listening = Listening()
    serving = serving_with(with_head, shape_for(with_head), DraftSource(lambda: listening, 3))
    run = serving.runner.run

    def in_two(plan: StepPlan) -> StepResult:
        run(StepPlan((), plan.joined))
        return run(replace(plan, joined=()))

    serving.runner.run = in_two  # type: ignore[method-assign]
    tokens = prompt(5, 90)
    serving.submit(0, tokens, max_tokens=12)
    text = [*tokens, *serving.drain()[0]]
    reference = ReferenceHead(family)
    assert listening.heard
    for length, guesses in listening.heard:
        assert guesses == reference.guesses(text[:length], len(guesses))


def test_a_head_reads_late_what_a_full_batch_wrote(with_head: AnyDecoder, family: str):
    """Nothing is guessed of answers that are written while the batch is full, which are read all the same."""
    listening = Listening()
    sources: Iterator[Drafter] = iter([*(DeviceDrafter() for _ in range(16)), listening])
    shape = shape_for(with_head, 200, 16)
    serving = serving_with(with_head, shape, DraftSource(lambda: next(sources), 3))
    for number in range(16):
        serving.submit(number, prompt(number, 30), max_tokens=NEW)
    answers = serving.drain()
    turn = [*prompt(3, 30), *answers[3]]
    serving.submit(16, turn)
    text = [*turn, *serving.drain()[16]]
    end = serving.ends[16]
    assert isinstance(end, Finished)
    assert end.cached_tokens >= 64
    reference = ReferenceHead(family)
    assert listening.heard
    for length, guesses in listening.heard:
        assert guesses == reference.guesses(text[:length], len(guesses))


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_captured_steps_hand_out_what_a_head_reads(name: str, tmp_path: Path):
    """As on a GPU, where decode steps are replayed from what was captured."""
    loaded = headed(save_with_head(tmp_path / "m", name, surely=True))
    serving = Serving(
        loaded,
        shape_for(loaded),
        kernel=varlen,
        capture=TracingCapture(),
        drafts=DraftSource(DeviceDrafter, 5),
    )
    with_head = headed_serving(serving, loaded)
    submit_all(with_head, GREEDY)
    assert with_head.drain() == plain(loaded).tokens
    status = with_head.scheduler.status()
    assert status.accepted == status.drafted > 40


def test_a_head_that_fails_guesses_no_more(sure: AnyDecoder, caplog: pytest.LogCaptureFixture):
    expected = plain(sure).tokens
    serving = serving_with(sure, shape_for(sure))
    runner: Any = serving.runner
    runner._head = failing = Failing(sure)
    submit_all(serving, GREEDY)
    assert serving.drain() == expected
    assert failing.calls == 1
    assert "the multi-token head failed" in caplog.text
