from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron.device.sampler import Sampler
from neuron.pipe import Sampling
from neuron.step import Draw, Joined

CPU = torch.device("cpu")


def draw(
    logits: Sequence[float],
    sampling: Sampling,
    uniform: float = 0.0,
    *,
    prompt: tuple[int, ...] = (0,),
    output: tuple[int, ...] = (),
    banned: tuple[int, ...] = (),
) -> int:
    sampler = Sampler(1, len(logits), CPU)
    sampler.join(Joined(0, sampling, prompt, output, ()))
    return sampler.sample(torch.tensor([list(logits)]), [0], [Draw(uniform, banned)])[0][0]


def share(logits: Sequence[float], sampling: Sampling, steps: int = 400) -> dict[int, float]:
    """The share of evenly spread random numbers that draw each token."""
    counts = Counter(draw(logits, sampling, (i + 0.5) / steps) for i in range(steps))
    return {token: count / steps for token, count in counts.items()}


LOGITS = [0.0, 3.0, 1.0, 2.0]
PROBS = torch.tensor(LOGITS).softmax(0).tolist()


def test_greedy_takes_the_largest():
    assert draw(LOGITS, Sampling(), 0.99) == 1


def test_temperature_draws_by_probability():
    assert share(LOGITS, Sampling(temperature=1.0)) == pytest.approx(dict(enumerate(PROBS)), abs=0.005)
    cool = torch.tensor(LOGITS).mul(2).softmax(0).tolist()
    assert share(LOGITS, Sampling(temperature=0.5)) == pytest.approx(dict(enumerate(cool)), abs=0.005)


def test_a_tiny_temperature_is_greedy():
    assert share([1.0, 1.1, 0.5], Sampling(temperature=1e-30), 20) == {1: 1.0}


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=1), {1}),
        (Sampling(temperature=1.0, top_k=99), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.01), {1}),
        (Sampling(temperature=1.0, min_p=0.3), {1, 3}),
        (Sampling(temperature=1.0, min_p=0.1), {1, 2, 3}),
        (Sampling(temperature=1.0, top_k=3, top_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, top_k=2, top_p=0.74), {1, 3}),
        (Sampling(temperature=1.0, top_k=2, top_p=0.73), {1}),  # of the two left, the first has 0.731
    ],
    ids=str,
)
def test_filters_keep_the_most_probable_tokens(sampling: Sampling, kept: set[int]):
    total = sum(PROBS[token] for token in kept)
    expected = {token: PROBS[token] / total for token in kept}
    assert share(LOGITS, sampling) == pytest.approx(expected, abs=0.005)


def test_a_flat_distribution_wider_than_the_candidates_is_drawn_whole():
    shares = share([0.0] * 1000, Sampling(temperature=1.0, top_p=0.999), 999)
    assert len(shares) == 999


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=400),
    uniform=st.floats(0, 1, exclude_max=True),
    top_k=st.integers(0, 500),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_a_drawn_token_passes_the_filters(
    logits: list[float], uniform: float, top_k: int, top_p: float, min_p: float
):
    token = draw(logits, Sampling(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p), uniform)
    probs = torch.tensor(logits).softmax(0)
    better = probs[probs > probs[token]]
    assert probs[token] > 0 or float(probs.max()) == 0
    assert not top_k or len(better) < top_k
    assert float(better.sum()) < top_p + 1e-4
    assert float(probs[token]) >= min_p * float(probs.max()) * (1 - 1e-5)


def test_penalties_lower_repeated_tokens():
    assert draw([2.0, 1.9], Sampling(repetition_penalty=1.2), prompt=(0,)) == 1
    assert draw([-1.0, -1.1], Sampling(repetition_penalty=1.2), prompt=(0,)) == 1
    assert draw([2.0, 1.9], Sampling(presence_penalty=0.2), prompt=(0,)) == 0  # the prompt is free
    assert draw([2.0, 1.9], Sampling(presence_penalty=0.2), output=(0,)) == 1
    assert draw([2.0, 1.5], Sampling(frequency_penalty=0.2), output=(0, 0)) == 0
    assert draw([2.0, 1.5], Sampling(frequency_penalty=0.2), output=(0, 0, 0)) == 1


def test_a_drawn_token_is_penalized_next():
    sampler = Sampler(1, 3, CPU)
    sampler.join(Joined(0, Sampling(frequency_penalty=1.0), (0,), (), ()))
    drawn = [sampler.sample(torch.tensor([[3.0, 2.5, 0.0]]), [0], [Draw(0.0)])[0][0] for _ in range(4)]
    assert drawn == [0, 1, 0, 1]
    sampler.join(Joined(0, Sampling(frequency_penalty=1.0), (0,), (), ()))
    assert sampler.sample(torch.tensor([[3.0, 2.5, 0.0]]), [0], [Draw(0.0)])[0] == [0]


def test_banned_ids_are_not_drawn():
    assert draw(LOGITS, Sampling(), banned=(1, 3)) == 2
    assert draw(LOGITS, Sampling(temperature=1.0, top_k=1), 0.5, banned=(1,)) == 3


def test_rows_do_not_affect_each_other():
    samplings = [
        Sampling(),
        Sampling(temperature=1.0),
        Sampling(temperature=2.0, top_k=3, seed=1),
        Sampling(min_p=0.1),
    ]
    logits = torch.randn(4, 600, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(4, 600, CPU)
    for slot, sampling in enumerate(samplings):
        sampler.join(Joined(slot, sampling, (0,), (), ()))
    draws = [Draw(0.3 * slot) for slot in range(4)]
    together = sampler.sample(logits.clone(), range(4), draws)[0]
    alone = [sampler.sample(logits[i : i + 1].clone(), [i], [draws[i]])[0][0] for i in range(4)]
    assert together == alone


def test_a_bias_is_added_to_the_logit():
    assert draw(LOGITS, Sampling(logit_bias=((0, 3.5),))) == 0
    assert draw(LOGITS, Sampling(logit_bias=((1, -100.0), (3, -100.0)))) == 2
    shifted = torch.tensor(LOGITS).add(torch.tensor([1.0, 0.0, 0.0, -2.0])).softmax(0).tolist()
    sampling = Sampling(temperature=1.0, logit_bias=((0, 1.0), (3, -2.0)))
    assert share(LOGITS, sampling) == pytest.approx(dict(enumerate(shifted)), abs=0.005)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.5)]
)
@pytest.mark.parametrize(
    ("allowed", "kept"), [(b"\x05", {0, 2}), (b"\x08", {3}), (b"\xff\xff", {0, 1, 2, 3})]
)
def test_only_allowed_ids_are_drawn(sampling, allowed, kept):
    sampler = Sampler(2, 4, CPU)
    for slot in range(2):
        sampler.join(Joined(slot, sampling, (0,), (), ()))
    for step in range(40):
        logits = torch.tensor([LOGITS, LOGITS])
        (free, guided), _ = sampler.sample(
            logits, [0, 1], [Draw(step / 40), Draw(step / 40, allowed=allowed)]
        )
        assert guided in kept
        assert free == draw(LOGITS, sampling, step / 40)


def test_logprobs_are_the_models_own_whatever_the_sampling():
    own = torch.tensor(LOGITS).log_softmax(0).tolist()
    sampling = Sampling(
        temperature=0.3, repetition_penalty=3.0, presence_penalty=2.0, logit_bias=((0, 50.0),), top_logprobs=3
    )
    sampler = Sampler(2, 4, CPU)
    sampler.join(Joined(0, Sampling(), (0,), (), ()))
    sampler.join(Joined(1, sampling, (0,), (1, 1), ()))
    (_, token), logprobs = sampler.sample(torch.tensor([LOGITS, LOGITS]), [0, 1], [Draw(0.0), Draw(0.5)])
    assert token == 0
    assert logprobs.keys() == {1}
    assert logprobs[1].chosen == pytest.approx(own[0])
    assert [token for token, _ in logprobs[1].top] == [1, 3, 2]
    assert [value for _, value in logprobs[1].top] == pytest.approx([own[1], own[3], own[2]])
