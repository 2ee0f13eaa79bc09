"""Texts with drafts are those without, whatever is guessed, on models of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from neuron.engine.drafter import Drafter, DraftSource
from neuron.models.decoder import AnyDecoder
from neuron.pipe import Finished, Sampling
from neuron.step import CacheShape
from tests.device.ranks import group, links, part
from tests.device.serving import GREEDY, Serving, decoder, prompt
from tests.device.zoo import VOCAB, save

# Layers that attend, by windows, to latents, to chosen positions; that keep states, ours and transformers';
# decoders that attend themselves, keep their whole state, or read the text anew.
KINDS = (
    "llama", "mistral", "gpt_oss", "deepseek_v3", "minimax_m3_vl_text", "deepseek_v4", "qwen3_5_text",
    "lfm2", "bamba", "jamba", "kimi_linear", "rwkv", "bloom", "openai-gpt",
)  # fmt: skip
PROMPTS = {length: prompt(length, length) for length in (3, 21, 40)}
NEW = 40
RULES = {
    "greedy": GREEDY,
    "penalties": Sampling(repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
    "seeded": Sampling(temperature=0.8, top_p=0.9, seed=5, frequency_penalty=0.3, top_logprobs=2),
}


class Prophet(Drafter):
    """Knows the texts, and tells every fifth token wrong."""

    def __init__(self, texts: Sequence[list[int]]) -> None:
        self._texts = texts
        self.learned: list[tuple[int, int]] = []

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        text = next((text for text in self._texts if text[: len(tokens)] == list(tokens)), [])
        places = range(len(tokens), min(len(tokens) + most, len(text)))
        return [text[at] if at % 5 else (text[at] + 1) % VOCAB for at in places]

    def learn(self, drafted: int, accepted: int) -> None:
        self.learned.append((drafted, accepted))


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return decoder(save(tmp_path_factory.mktemp("model"), request.param))


def shape_for(loaded: AnyDecoder, num_pages: int = 100, num_slots: int = 8) -> CacheShape:
    return CacheShape(num_pages, 8, num_slots, context=128, num_snapshots=16 if loaded.states else 0)


def served(
    loaded: AnyDecoder, shape: CacheShape, rule: Sampling, drafts: DraftSource | None = None
) -> Serving:
    serving = Serving(loaded, shape, drafts=drafts)
    submit_all(serving, rule)
    serving.drain()
    return serving


def submit_all(serving: Serving, rule: Sampling) -> None:
    for number, tokens in PROMPTS.items():
        serving.submit(number, tokens, rule, max_tokens=NEW)


def prophecy(texts: Mapping[int, list[int]], tokens: int = 7) -> DraftSource:
    whole = [PROMPTS[number] + text for number, text in texts.items()]
    return DraftSource(lambda: Prophet(whole), tokens)


@pytest.mark.parametrize("rule", RULES)
def test_texts_are_those_without_drafts(loaded: AnyDecoder, rule: str):
    plain = served(loaded, shape_for(loaded), RULES[rule])
    drafted = served(loaded, shape_for(loaded), RULES[rule], prophecy(plain.tokens))
    assert drafted.tokens == plain.tokens
    status = drafted.scheduler.status()
    assert status.drafted > status.accepted > 20
    assert drafted.num_steps < 0.8 * plain.num_steps


@pytest.mark.parametrize("family", ["llama", "qwen3_5_text"])
@pytest.mark.parametrize("rule", RULES)
def test_drafts_are_checked_on_all_devices_of_a_model(family: str, rule: str, tmp_path: Path):
    path = save(tmp_path / "m", family)
    whole = decoder(path)
    shape = shape_for(whole)
    plain = served(whole, shape, RULES[rule])
    parts = [part(path, rank, 2) for rank in range(2)]
    with links(2) as made:
        split = group(parts, made, shape, drafts=prophecy(plain.tokens))
        submit_all(split, RULES[rule])
        assert split.drain() == plain.tokens
    assert split.scheduler.status().accepted > 20


@pytest.fixture(scope="module", params=["llama", "qwen3_5_text"])
def common(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    return decoder(save(tmp_path_factory.mktemp("common"), request.param))


def test_a_preemption_changes_no_text(common: AnyDecoder):
    plain = served(common, shape_for(common), GREEDY)
    drafts = prophecy(plain.tokens)
    tight = served(common, shape_for(common, num_pages=17), GREEDY, drafts)
    assert tight.num_joined > len(PROMPTS)
    assert tight.tokens == plain.tokens


def test_a_drafted_answer_is_cached_as_any_other(common: AnyDecoder):
    plain = served(common, shape_for(common), GREEDY)
    drafted = served(common, shape_for(common), GREEDY, prophecy(plain.tokens))
    turn = [*PROMPTS[21], *plain.tokens[21], *prompt(1, 9)]
    for serving in (plain, drafted):
        serving.submit(0, turn)
        serving.drain()
        end = serving.ends[0]
        assert isinstance(end, Finished)
        assert end.cached_tokens >= 48
    assert drafted.tokens[0] == plain.tokens[0]


def test_an_answer_ends_where_it_would_without_drafts(common: AnyDecoder):
    plain = served(common, shape_for(common), GREEDY)
    drafts = prophecy(plain.tokens)
    stop_id = plain.tokens[21][9]
    for serving in (Serving(common, shape_for(common)), Serving(common, shape_for(common), drafts=drafts)):
        serving.submit(21, PROMPTS[21], max_tokens=NEW, stop_ids=[stop_id], min_tokens=3)
        serving.submit(40, PROMPTS[40], max_tokens=17)
        serving.drain()
        end = serving.ends[21]
        assert isinstance(end, Finished)
        assert (end.stop_id, end.completion_tokens) == (stop_id, len(serving.tokens[21]) + 1)
        assert serving.tokens[21] == plain.tokens[21][: len(serving.tokens[21])]
        assert serving.tokens[40] == plain.tokens[40][:17]


def test_a_cancelled_answer_leaves_nothing_behind(common: AnyDecoder):
    plain = served(common, shape_for(common), GREEDY)
    serving = Serving(common, shape_for(common), drafts=prophecy(plain.tokens))
    for number, tokens in PROMPTS.items():
        serving.submit(number, tokens, max_tokens=NEW)
    while len(serving.tokens[21]) < 6:
        serving.step()
    assert serving.scheduler.cancel(21)
    answers = serving.drain()
    assert (answers[3], answers[40]) == (plain.tokens[3], plain.tokens[40])
    assert serving.scheduler.pages.num_available == 100


def test_a_full_batch_has_no_drafts(common: AnyDecoder):
    whole = [prompt(1, 5) + served_alone(common)]
    serving = Serving(common, shape_for(common, 200, 16), drafts=DraftSource(lambda: Prophet(whole), 7))
    for number in range(16):
        serving.submit(number, prompt(1, 5), max_tokens=NEW)
    serving.drain()
    assert serving.scheduler.status().drafted == 0


def served_alone(loaded: AnyDecoder) -> list[int]:
    serving = Serving(loaded, shape_for(loaded))
    serving.submit(0, prompt(1, 5), max_tokens=NEW)
    return serving.drain()[0]
