"""An answer does not depend on other requests, on the cache, or on preemptions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuron.models.decoder import AnyDecoder
from neuron.pipe import Finished, Sampling
from neuron.step import CacheShape, PoisonedError
from tests.device.serving import GREEDY, Serving, decoder, prompt, texts
from tests.device.zoo import build, save

WARM = Sampling(temperature=1.0, top_p=0.9, seed=11)
TIGHT = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128)


@pytest.fixture(scope="module")
def loaded(llama: Path) -> AnyDecoder:
    return decoder(llama)


@pytest.fixture(scope="module", params=["llama", "deepseek_v3"], ids=["heads", "latents"])
def caching(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    """Models that cache all that can be cached."""
    return decoder(save(tmp_path_factory.mktemp(request.param) / "model", request.param))


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "seeded"])
def test_a_text_does_not_depend_on_the_batch(loaded: AnyDecoder, sampling: Sampling):
    prompts = {seed: prompt(seed, 5 + 3 * seed) for seed in range(32)}
    together = texts(loaded, prompts, sampling)
    for number in (0, 1, 7, 31):
        assert texts(loaded, {number: prompts[number]}, sampling) == {number: together[number]}
    assert len({tuple(text) for text in together.values()}) > 16


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "seeded"])
def test_a_preemption_does_not_change_a_text(caching: AnyDecoder, sampling: Sampling):
    prompts = {seed: prompt(seed, 20) for seed in range(6)}
    serving = Serving(caching, TIGHT)
    for number, tokens in prompts.items():
        serving.submit(number, tokens, sampling, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > len(prompts)
    for number, tokens in prompts.items():
        alone = Serving(caching)
        alone.submit(number, tokens, sampling, max_tokens=40)
        assert alone.drain()[number] == crowded[number]


def test_the_prefix_cache_changes_cached_tokens_and_nothing_else(caching: AnyDecoder):
    first, second = prompt(1, 50), [*prompt(1, 50), *prompt(2, 9)]
    serving = Serving(caching)
    cold, cached = {}, {}
    for number, tokens in enumerate((first, second)):
        serving.scheduler.pages.clear_cached()
        serving.submit(number, tokens)
        cold[number] = serving.drain()[number]
    for number, tokens in enumerate((first, second), 2):
        serving.submit(number, tokens)
        cached[number - 2] = serving.drain()[number]
    assert cold == cached
    ends = [end for end in serving.ends.values() if isinstance(end, Finished)]
    assert [end.cached_tokens for end in ends] == [0, 0, 48, 56]


def test_penalties_count_through_a_preemption(loaded: AnyDecoder):
    sampling = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)
    serving = Serving(loaded, TIGHT)
    for seed in range(6):
        serving.submit(seed, prompt(seed, 20), sampling, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > 6
    alone = Serving(loaded)
    alone.submit(5, prompt(5, 20), sampling, max_tokens=40)
    assert alone.drain()[5] == crowded[5]
    assert len(set(crowded[5])) > len(set(texts(loaded, {5: prompt(5, 20)})[5]))


def test_a_seed_decides_the_text_and_no_seed_is_another_each_time(loaded: AnyDecoder):
    def answer(seed: int | None) -> list[int]:
        return texts(loaded, {0: prompt(0, 9)}, Sampling(temperature=1.5, seed=seed))[0]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)
    assert answer(None) != answer(None)


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode"])
def test_cancel_gives_every_page_back_while_the_others_go_on(loaded: AnyDecoder, phase: str):
    serving = Serving(loaded, max_running=2)
    pages = serving.scheduler.pages
    serving.submit(1, prompt(1, 40), max_tokens=30)
    serving.step()
    if phase == "waiting":
        serving.submit(0, prompt(9, 20), max_tokens=60)
        serving.step()
    before = pages.num_available
    serving.submit(2, prompt(2, 120), max_tokens=60)
    for _ in range({"waiting": 1, "prefill": 1, "decode": 6}[phase]):
        serving.step()
    assert bool(serving.tokens[2]) == (phase == "decode")
    assert (pages.num_available < before - 14) == (phase != "waiting")
    finished = serving.scheduler.cancel(2)
    assert finished == Finished(2, "cancelled", 120, len(serving.tokens[2]), 0)
    assert before - pages.num_available <= 1, "the page that the other stream grew by meanwhile"
    assert serving.drain()[1] == texts(loaded, {1: prompt(1, 40)}, max_tokens=30)[1]
    assert pages.num_available == pages.num_pages


def test_logits_that_are_not_numbers_poison_the_device(tmp_path: Path):
    def break_token_99(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[99] = float("nan")  # type: ignore[operator]

    serving = Serving(decoder(save(tmp_path / "model", edit=break_token_99)))
    serving.submit(1, [5, 6, 7])
    serving.drain()
    serving.submit(2, [5, 99])
    with pytest.raises(PoisonedError):
        serving.drain()


# --- the prompt's own logprobs ----------------------------------------------------------------------------


def scored(serving: Serving, number: int) -> list[float]:
    return [logprob.chosen for logprob in serving.scores[number]]


def test_a_scored_prompt_has_transformers_own_logprobs(loaded: AnyDecoder):
    """The prompt is longer than a step, runs beside a stream, is scored again when cached, and alone."""
    reference, tokens = build("llama"), prompt(4, 70)
    with torch.inference_mode():
        table = reference(torch.tensor([tokens])).logits[0].log_softmax(-1)
    wanted = [table[i, token].item() for i, token in enumerate(tokens[1:])]
    serving = Serving(loaded)
    serving.submit(1, prompt(1, 20), max_tokens=30)
    serving.step()
    for number, max_tokens in ((2, 4), (3, 4), (4, 0)):
        serving.submit(number, tokens, Sampling(top_logprobs=3), max_tokens=max_tokens, score_prompt=True)
    told = serving.drain()
    assert told[2] == told[3] == texts(loaded, {0: tokens})[0][:4]
    assert not told.get(4)
    for number in (2, 3, 4):
        assert scored(serving, number) == pytest.approx(wanted, abs=1e-3)
        best = [[token for token, _ in logprob.top] for logprob in serving.scores[number]]
        assert best == table[:-1].topk(3).indices.tolist()
        end = serving.ends[number]
        assert isinstance(end, Finished)
        assert end.cached_tokens == 0


def test_a_preempted_prompt_is_scored_once(loaded: AnyDecoder):
    alone = Serving(loaded)
    alone.submit(1, prompt(1, 60), Sampling(top_logprobs=0), max_tokens=4, score_prompt=True)
    alone.drain()
    serving = Serving(loaded, TIGHT)
    serving.submit(1, prompt(1, 60), Sampling(top_logprobs=0), max_tokens=4, score_prompt=True)
    serving.step()
    assert 0 < len(serving.scores[1]) < 59
    serving.submit(2, prompt(2, 120), max_tokens=4, priority=1)
    serving.drain()
    assert serving.num_joined == 3
    assert scored(serving, 1) == pytest.approx(scored(alone, 1), abs=1e-4)


def test_a_step_never_exceeds_max_logit_rows(loaded: AnyDecoder):
    serving = Serving(loaded, max_running=4)
    for number in range(3):
        serving.submit(number, prompt(number, 30), Sampling(top_logprobs=0), score_prompt=True)
    while serving.scheduler.has_work:
        serving.step()
        assert serving.num_scored <= 4
    assert [len(serving.scores[number]) for number in range(3)] == [29, 29, 29]
