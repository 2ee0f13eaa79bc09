"""Texts with a draft model are those without, and it is asked for less where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.device.draft_model import DraftedRunner
from neuron.device.model_runner import ModelRunner
from neuron.engine.drafter import DeviceDrafter, DraftSource
from neuron.models.decoder import AnyDecoder
from neuron.pipe import Sampling
from neuron.step import CacheShape
from tests.device.serving import GREEDY, Serving, decoder, prompt
from tests.device.test_speculation import NEW, PROMPTS, RULES, shape_for, submit_all
from tests.device.zoo import save


@pytest.fixture(scope="module", params=["llama", "deepseek_v3", "qwen3_5_text"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return decoder(save(tmp_path_factory.mktemp("large"), request.param))


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return decoder(save(tmp_path_factory.mktemp("common"), "llama"))


def serving_with(large: AnyDecoder, draft: AnyDecoder, shape: CacheShape, *, tokens: int = 5) -> Serving:
    serving = Serving(large, shape, drafts=DraftSource(DeviceDrafter, tokens))
    own = replace(shape, num_snapshots=0, num_host_pages=0, num_host_snapshots=0)
    serving.runner = DraftedRunner(
        serving.runner,
        ModelRunner(draft, draft.layers, own, table=serving.runner.table),
        vocab_size=draft.vocab_size,
        num_embeddings=draft.num_embeddings,
        context=draft.context,
    )
    return serving


def plain(large: AnyDecoder, rule: Sampling = GREEDY) -> Serving:
    serving = Serving(large, shape_for(large))
    submit_all(serving, rule)
    serving.drain()
    return serving


@pytest.mark.parametrize("rule", RULES)
def test_texts_are_those_without_a_draft_model(large: AnyDecoder, common: AnyDecoder, rule: str):
    """One that says the same comes to fewer steps, and another to the same texts."""
    expected = plain(large, RULES[rule])
    for draft in [common] if large.states else [common, large]:
        serving = serving_with(large, draft, shape_for(large))
        submit_all(serving, RULES[rule])
        assert serving.drain() == expected.tokens
        status = serving.scheduler.status()
        assert status.drafted
        if draft is large and rule == "greedy":
            assert status.accepted == status.drafted
            assert serving.num_steps < 0.5 * expected.num_steps


def test_a_draft_model_goes_on_after_a_preemption(common: AnyDecoder):
    expected = plain(common)
    serving = serving_with(common, common, shape_for(common, num_pages=17))
    submit_all(serving, GREEDY)
    assert serving.drain() == expected.tokens
    assert serving.num_joined > len(PROMPTS)
    status = serving.scheduler.status()
    assert status.accepted == status.drafted > 0


def test_a_draft_model_knows_cached_prefixes(common: AnyDecoder):
    """Of an answer that was written while the batch was full, it reads later what it has not."""
    serving = serving_with(common, common, shape_for(common, 200, 16))
    for number in range(16):
        serving.submit(number, prompt(number, 30), max_tokens=NEW)
    answers = serving.drain()
    assert serving.scheduler.status().drafted < 0.5 * 16 * NEW
    before = serving.scheduler.status()
    turn = [*prompt(3, 30), *answers[3]]
    serving.submit(3, turn)
    again = serving.drain()[3]
    after = serving.scheduler.status()
    assert after.accepted - before.accepted == after.drafted - before.drafted > 10
    whole = Serving(common, shape_for(common))
    whole.submit(0, turn)
    assert whole.drain()[0] == again


class Failing:
    """A decoder that has no room for a step."""

    def __init__(self, whole: AnyDecoder) -> None:
        self._whole = whole
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __call__(self, *_: object) -> Any:
        self.calls += 1
        raise RuntimeError("no room")


def test_a_draft_model_that_fails_guesses_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = decoder(save(tmp_path / "m", "llama"), fused=False)
    failing: Any = Failing(whole)
    serving = serving_with(whole, failing, shape_for(whole))
    submit_all(serving, GREEDY)
    assert serving.drain() == plain(whole).tokens
    assert failing.calls == 1
    assert "the draft model failed" in caplog.text
