"""Experts are chosen, grouped and summed in C as their rules say in words."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ext import matmul
from neuron.device import expert_steps, row_steps
from neuron.device.expert_steps import RoutingRule, Scores
from neuron.models.fused.activation import ClampedGate

NATIVE = matmul.load()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="ext.matmul is not built")
SETS = NATIVE.instruction_sets() if NATIVE else []


@pytest.fixture(params=SETS, autouse=True, scope="module")
def instruction_set(request: pytest.FixtureRequest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "instruction_set", lambda: SETS.index(request.param))
        yield


@st.composite
def rules(draw: st.DrawFn) -> RoutingRule:
    size, groups = draw(st.integers(1, 20)), draw(st.integers(1, 9))
    kept, best = draw(st.integers(1, groups)), draw(st.integers(1, min(size, 2)))
    chosen = draw(st.integers(1, size * kept))
    bias = torch.randn(size * groups) if draw(st.booleans()) else None
    eps = draw(st.sampled_from([None, 0.0, 1e-20, 1e-6]))
    scores, factor = draw(st.sampled_from(Scores)), draw(st.sampled_from([1.0, 2.5]))
    return RoutingRule(size * groups, chosen, scores, bias, groups, kept, best, eps, factor)


def by_definition(rule: RoutingRule, logits: Tensor) -> list[dict[int, float]]:
    """The weights of the experts that each row chooses."""
    scores = logits.double()
    if rule.scores is Scores.SOFTMAX_OF_ALL:
        scores = scores.softmax(-1)
    elif rule.scores is Scores.SIGMOIDS:
        scores = scores.sigmoid()
    compared = scores if rule.bias is None else scores + rule.bias.double()
    size = rule.experts // rule.groups
    rows = []
    for row, compare in zip(scores.tolist(), compared.tolist(), strict=True):
        parts = [compare[start : start + size] for start in range(0, rule.experts, size)]
        totals = [sum(sorted(part)[-rule.best :]) for part in parts]
        kept = sorted(range(rule.groups), key=totals.__getitem__)[-rule.kept :]
        left = [expert for expert in range(rule.experts) if expert // size in kept]
        chosen = sorted(left, key=compare.__getitem__)[-rule.chosen :]
        weights = torch.tensor([row[expert] for expert in chosen], dtype=torch.float64)
        if rule.scores is Scores.SOFTMAX_OF_CHOSEN:
            weights = weights.softmax(-1)
        if rule.eps is not None:
            weights /= weights.sum() + rule.eps
        rows.append(dict(zip(chosen, (weights * rule.factor).tolist(), strict=True)))
    return rows


@given(rules(), st.integers(1, 5), st.integers(0, 9))
def test_experts_are_chosen_by_their_rule(rule: RoutingRule, rows: int, seed: int):
    assert rule.runs_in_c
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, rule.experts, generator=generator)
    weights, experts = expert_steps.choose(rule, logits)
    for row, (found, weighed) in enumerate(zip(experts.tolist(), weights.tolist(), strict=True)):
        wanted = by_definition(rule, logits[row : row + 1])[0]
        assert dict(zip(found, weighed, strict=True)) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("scores", Scores)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_choose_experts_that_are_there(scores: Scores, bad: float):
    rule = RoutingRule(12, 5, scores, torch.tensor([bad] * 6 + [0.0] * 6), 3, 2, 2, 0.0)
    logits = torch.randn(4, 12)
    logits[0], logits[1, 3], logits[2, 5:] = bad, bad, bad
    weights, experts = expert_steps.choose(rule, logits)
    assert all(len({*row}) == 5 and min(row) >= 0 and max(row) < 12 for row in experts.tolist())
    if isnan(bad):
        assert weights[0].isnan().all()


def test_a_number_that_is_none_is_chosen_and_seen():
    logits = torch.randn(1, 9)
    logits[0, 7] = float("nan")
    weights, experts = expert_steps.choose(RoutingRule(9, 2, Scores.SIGMOIDS), logits)
    assert experts[0, 0] == 7
    assert weights[0, 0].isnan()


@pytest.mark.parametrize(
    "rule",
    [
        RoutingRule(8, 9, Scores.SIGMOIDS),
        RoutingRule(8, 0, Scores.SIGMOIDS),
        RoutingRule(8, 3, Scores.SIGMOIDS, groups=4, kept=1),
        RoutingRule(8, 1, Scores.SIGMOIDS, groups=8, best=2),
        RoutingRule(8, 1, Scores.SIGMOIDS, groups=3),
        RoutingRule(8, 1, Scores.SIGMOIDS, groups=0),
        RoutingRule(8, 1, Scores.SIGMOIDS, groups=2, kept=3),
        RoutingRule(2048, 1, Scores.SIGMOIDS),
    ],
)
def test_a_rule_that_cannot_be_is_not_for_c(rule: RoutingRule):
    assert not rule.runs_in_c


@given(st.integers(1, 40), st.integers(1, 6), st.integers(6, 30), st.integers(1, 70), st.integers(0, 9))
def test_rows_go_to_their_experts_and_come_back(tokens: int, chosen: int, experts: int, dim: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    choice = torch.stack([torch.randperm(experts, generator=generator)[:chosen] for _ in range(tokens)])
    x, weights = torch.randn(tokens, dim), torch.randn(tokens, chosen)
    rows = expert_steps.group(choice, experts)
    wanted, order = choice.flatten().sort(stable=True)
    assert torch.equal(rows.experts, wanted)
    assert torch.equal(rows.sources, order // chosen)
    assert rows.ends.tolist() == [(wanted <= expert).sum() for expert in range(experts)]
    gathered = row_steps.gather(x, rows.sources)
    assert torch.equal(gathered, x[rows.sources])
    found = expert_steps.weighted_sum(gathered, rows.spots, weights)
    torch.testing.assert_close(found, x * weights.sum(1, keepdim=True), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 8), st.integers(1, 8), st.integers(0, 9))
def test_rows_of_experts_that_are_elsewhere_have_no_spot(
    tokens: int, chosen: int, first: int, here: int, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    choice = torch.stack([torch.randperm(16, generator=generator)[:chosen] for _ in range(tokens)])
    x, weights = torch.randn(tokens, 21), torch.randn(tokens, chosen)
    rows = expert_steps.group(choice, here, first)
    is_here = (choice >= first) & (choice < first + here)
    count = int(is_here.sum())
    assert torch.equal(rows.spots >= 0, is_here)
    assert torch.equal(rows.experts[:count], (choice[is_here] - first).sort(stable=True)[0])
    assert rows.ends[-1] == count
    gathered = row_steps.gather(x, rows.sources)
    gathered[count:] = float("nan")  # which nobody reads
    found = expert_steps.weighted_sum(gathered, rows.spots, weights)
    wanted = x * (weights * is_here).sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_sums_are_of_the_rows_that_are_said():
    x, spots, weights = torch.randn(9, 300), torch.randint(9, (600, 3)), torch.randn(600, 3)
    wanted = (x[spots] * weights[..., None]).sum(1)  # divided among threads
    torch.testing.assert_close(expert_steps.weighted_sum(x, spots, weights), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [1, 8, 37, 96])
def test_the_clamped_gate(width: int):
    gate = ClampedGate(1.702, 7.0)
    x = 6 * torch.randn(5, 2 * width)
    x[0, 0], x[1, -1] = 1e30, -1e30
    torch.testing.assert_close(gate(x), gate(x.double()).float(), rtol=1e-5, atol=1e-5)


def test_rows_are_scaled_by_sigmoids():
    x, gate = torch.randn(4, 21), torch.tensor([[-200.0], [0.0], [3.0], [200.0]])
    wanted = row_steps.scale_by_sigmoid(x.double(), gate.double())
    torch.testing.assert_close(row_steps.scale_by_sigmoid(x.clone(), gate), wanted.float())
