"""A model that is split over ranks is drafted for as one on one device, and its texts stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from neuron.device.collective import GroupLostError, sums_are_recorded
from neuron.engine.drafter import DeviceDrafter, DraftSource
from neuron.step import CacheShape, NotNumbersError, StepPlan, StepResult
from neuron.supervisor.device_group import SharedFiles
from neuron.worker.model_pool import ModelPool, WorkerSettings
from neuron.worker.rank_link import FollowingRunner, LeadingRunner
from neuron.worker.resident_model import ResidentModel
from tests.device.heads import FAMILIES, ReferenceHead, headed, save_with_head
from tests.device.ranks import CPU, PATIENCE_S, AllRanks, group, in_threads, links, part
from tests.device.serving import GREEDY, Serving, prompt
from tests.device.test_draft_pair import answer, saved
from tests.device.test_heads import Listening, plain, serving_with
from tests.device.test_speculation import PROMPTS, RULES, shape_for, submit_all


@contextmanager
def headed_group(
    path: Path, ranks: int, shape: CacheShape | None = None, source: DraftSource | None = None
) -> Iterator[Serving]:
    """A group of ranks whose model's head guesses."""
    parts = [part(path, rank, ranks, wish="mtp") for rank in range(ranks)]
    assert all(each.head for each in parts)
    with links(ranks) as made:
        yield group(parts, made, shape or shape_for(parts[0]), drafts=source or DraftSource(DeviceDrafter, 5))


def head_runners(serving: Serving) -> list[Any]:
    """What runs the head on each rank."""
    ranks: Any = serving.runner
    return [ranks._first._runner, *(other._runner for other, _ in ranks._others)]


@pytest.fixture(scope="module", params=["qwen3_5_text", "deepseek_v3", "glm4_moe"])
def sure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_head(tmp_path_factory.mktemp("sure"), request.param, surely=True)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_head_guesses_what_it_does_by_definition(family: str, ranks: int, tmp_path: Path):
    path = save_with_head(tmp_path / "m", family)
    listening = Listening()
    tokens = prompt(5, 70)  # longer than a step
    with headed_group(path, ranks, source=DraftSource(lambda: listening, 3)) as serving:
        serving.submit(0, tokens, max_tokens=16)
        answer = serving.drain()[0]
    alone = Serving(headed(path, None))
    alone.submit(0, tokens, max_tokens=16)
    assert alone.drain()[0] == answer
    reference, text = ReferenceHead(family), [*tokens, *answer]
    assert len(listening.heard) > 5
    for length, guesses in listening.heard:
        assert guesses == reference.guesses(text[:length], len(guesses))


@pytest.mark.parametrize("rule", RULES)
def test_texts_are_those_of_one_device_without_a_head(sure: Path, rule: str):
    loaded = headed(sure, None)
    expected = Serving(loaded, shape_for(loaded))
    submit_all(expected, RULES[rule])
    expected.drain()
    with headed_group(sure, 2) as serving:
        submit_all(serving, RULES[rule])
        assert serving.drain() == expected.tokens
    status = serving.scheduler.status()
    assert status.drafted
    if rule == "greedy":
        assert status.accepted == status.drafted > 40
        assert serving.num_steps < 0.5 * expected.num_steps


def test_a_split_head_goes_on_after_a_preemption(sure: Path):
    loaded = headed(sure)
    with headed_group(sure, 2, shape_for(loaded, num_pages=17)) as serving:
        submit_all(serving, GREEDY)
        assert serving.drain() == plain(loaded).tokens
    assert serving.num_joined > len(PROMPTS)
    status = serving.scheduler.status()
    assert status.accepted == status.drafted > 0


@pytest.mark.skipif(not sums_are_recorded(), reason="ext was not built")
def test_the_steps_of_a_split_head_are_recorded_where_they_are_on_one_device(
    sure: Path, caplog: pytest.LogCaptureFixture
):
    loaded = headed(sure)
    alone: Any = serving_with(loaded, shape_for(loaded)).runner
    with headed_group(sure, 2) as serving:
        submit_all(serving, GREEDY)
        serving.drain()
        assert {bool(steps._steps) for steps in head_runners(serving)} == {bool(alone._steps)}
    assert "cannot be recorded" not in caplog.text


def test_a_split_head_that_fails_on_a_rank_ends_the_group(sure: Path):
    """The others wait for its part of the sums."""

    def no_room(*_: object) -> Tensor:
        raise RuntimeError("no room")

    with headed_group(sure, 2) as serving:
        head_runners(serving)[1]._read = no_room
        submit_all(serving, GREEDY)
        with pytest.raises(GroupLostError, match="failed on rank 1: RuntimeError: no room"):
            serving.drain()


def test_a_step_that_comes_to_no_numbers_keeps_a_group_with_a_head_together(sure: Path):
    """Other ranks hear that nothing was sampled, and take the next plan."""
    loaded = headed(sure)
    with headed_group(sure, 2) as serving:
        first = head_runners(serving)[0]._runner
        run = first.run

        def not_numbers(plan: StepPlan) -> StepResult:
            run(plan)
            raise NotNumbersError("the model's logits are not numbers")

        submit_all(serving, GREEDY)
        first.run = not_numbers
        plan_of_step = serving.scheduler.plan()
        assert plan_of_step
        with pytest.raises(NotNumbersError):
            serving.runner.run(plan_of_step)
        serving.scheduler.fail(plan_of_step, "not numbers")
        first.run = run
        serving.drain()
        submit_all(serving, GREEDY)
        assert serving.drain() == plain(loaded).tokens


@contextmanager
def loaded_group(
    path: Path, ranks: int, speculation: str | None = None, draft: Path | None = None
) -> Iterator[tuple[list[ResidentModel], list[ModelPool]]]:
    """The parts of a model as the workers of a group load them."""
    pools = [ModelPool(CPU, WorkerSettings(kv_mb=1)) for _ in range(ranks)]
    shared = SharedFiles(ranks)

    def loading(index: int) -> Callable[[], ResidentModel]:
        more: dict[str, Any] = {"speculation": speculation, "draft": draft}
        if index and draft:
            more = {"speculation": "ngram"}
        place = shared.place(index, PATIENCE_S)
        return lambda: pools[index].load("m", path, lambda _: None, place=place, **more)

    found = in_threads([loading(index) for index in range(ranks)])
    try:
        assert all(isinstance(each, ResidentModel) for each in found), found
        yield [each for each in found if isinstance(each, ResidentModel)], pools
    finally:
        for pool in pools:
            for resident in (*pool.models.values(), *pool.followed.values()):
                assert resident.link
                resident.link.close()
        shared.close()


def answer_of(residents: list[ResidentModel]) -> list[int]:
    """The answer of a group to the prompt of `answer`."""
    first, *others = (resident.runner for resident in residents)
    made = [resident.link for resident in residents if resident.link]
    assert isinstance(first, LeadingRunner)
    runners = AllRanks(first, [each for each in others if isinstance(each, FollowingRunner)], made)
    return answer(replace(residents[0], runner=runners))


@pytest.mark.parametrize("wish", ["auto", "mtp"])
def test_workers_of_a_group_load_a_head(wish: str, sure: Path):
    expected = answer(
        ModelPool(CPU, WorkerSettings(kv_mb=1)).load("m", sure, lambda _: None, speculation="off")
    )
    with loaded_group(sure, 2, wish) as (residents, _):
        assert all(each.loaded.head and each.memory_parts["draft"] for each in residents)
        assert answer_of(residents) == expected
        status = residents[0].scheduler.status()
        assert status.accepted == status.drafted > 15


@pytest.mark.parametrize(("family", "ranks"), [("llama", 2), ("llama", 4), ("qwen3_5_text", 2)])
def test_a_draft_model_on_the_first_rank_drafts_for_a_group(family: str, ranks: int, tmp_path: Path):
    large, small = saved(tmp_path / "large", family), saved(tmp_path / "small")
    expected = answer(
        ModelPool(CPU, WorkerSettings(kv_mb=1)).load("m", large, lambda _: None, speculation="off")
    )
    with loaded_group(large, ranks, draft=small) as (residents, _):
        assert [bool(each.loaded.draft) for each in residents] == [True] + [False] * (ranks - 1)
        assert len({each.runner.shape for each in residents}) == 1
        assert answer_of(residents) == expected
        status = residents[0].scheduler.status()
        assert status.drafted > 0
        assert family != "llama" or status.accepted == status.drafted > 20  # the two are the same
