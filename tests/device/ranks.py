"""The ranks of a group as threads of one process: the same parts, memory and plans as in workers."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from neuron.device.model_runner import ModelRunner
from neuron.device.rank_head_runner import RankHeadRunner
from neuron.engine.drafter import DraftSource
from neuron.models.architecture import decoder_class
from neuron.models.decoder import load_decoder, model_dtype
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.multi_token import HeadWish, choose_head
from neuron.models.reading import read_checkpoint
from neuron.models.tensor_parallel.checkpoint import split_checkpoint
from neuron.models.tensor_parallel.rank import RankDecoder
from neuron.models.tensor_parallel.sizes import Rank
from neuron.models.weights import LoadOptions
from neuron.step import CacheShape, StepPlan, StepResult
from neuron.supervisor.device_group import SharedFiles
from neuron.worker.rank_link import FollowingRunner, LeadingRunner, RankLink
from tests.device.serving import SHAPE, Serving

CPU = torch.device("cpu")
PATIENCE_S = 20.0


def part(
    path: Path,
    index: int,
    size: int,
    dtype: str | None = None,
    quant: str | None = None,
    *,
    device: torch.device = CPU,
    wish: HeadWish = None,
) -> RankDecoder:
    """One rank's part of the model in a directory."""
    whole = choose_head(read_checkpoint(path), wish)
    checkpoint, of_rank = split_checkpoint(whole, Rank(index, size), quant)
    if quant:
        checkpoint = in_situ(checkpoint, quant, decoder_class)
    options = LoadOptions(model_dtype(whole, dtype), device, on_progress=lambda _: None, part=of_rank)
    decoder = load_decoder(checkpoint, options)
    assert isinstance(decoder, RankDecoder)
    return decoder


@contextmanager
def links(size: int, devices: Sequence[torch.device] = ()) -> Iterator[list[RankLink]]:
    """The connected links of all ranks of a group, on CPUs by default."""
    shared = SharedFiles(size)
    made = [RankLink(shared.place(index, PATIENCE_S)) for index in range(size)]
    pairs = zip(made, devices or [CPU] * size, strict=True)
    try:
        in_threads([lambda link=link, device=device: link.connect(device) for link, device in pairs])
        yield made
    finally:
        for link in made:
            link.close()
        shared.close()


def in_threads(calls: list[Callable[[], object]]) -> list[object]:
    """What the calls return, made at once; what one raises is returned as well."""
    results: list[object] = [None] * len(calls)

    def run(index: int) -> None:
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        try:
            results[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class AllRanks:
    """A runner that runs each plan on every rank."""

    def __init__(
        self, first: LeadingRunner, others: Sequence[FollowingRunner], made: Sequence[RankLink]
    ) -> None:
        self._first = first
        self._others = [*zip(others, made[1:], strict=True)]

    def run(self, plan: StepPlan) -> StepResult:
        first, *others = in_threads([lambda: self._first.run(plan), *map(_following, self._others)])
        for outcome in (first, *others):
            if isinstance(outcome, Exception):
                raise outcome
        assert isinstance(first, StepResult)
        return first


def _runners(parts: list[RankDecoder], made: list[RankLink], shape: CacheShape, *, drafts: bool) -> AllRanks:
    runners = [ModelRunner(each, each.layers, shape, states=each.states, drafts=drafts) for each in parts]
    steps = [_with_head(runner, each) for runner, each in zip(runners, parts, strict=True)]
    pairs = [*zip(steps, parts, made, strict=True)]
    return AllRanks(LeadingRunner(*pairs[0]), [FollowingRunner(*pair) for pair in pairs[1:]], made)


def _with_head(runner: ModelRunner, part: RankDecoder) -> ModelRunner | RankHeadRunner:
    return RankHeadRunner(runner, part.head, vocab_size=part.vocab_size) if part.head else runner


def _following(pair: tuple[FollowingRunner, RankLink]) -> Callable[[], None]:
    runner, link = pair

    def follow() -> None:
        assert link.wake is not None
        select.select([link.wake], [], [], PATIENCE_S)
        os.read(link.wake, 1)
        runner.follow()

    return follow


def group(
    parts: list[RankDecoder],
    made: list[RankLink],
    shape: CacheShape = SHAPE,
    *,
    drafts: DraftSource | None = None,
) -> Serving:
    """A scheduler before all ranks."""
    serving = Serving(parts[0], shape, drafts=drafts)
    serving.runner = _runners(parts, made, shape, drafts=drafts is not None)  # type: ignore[assignment]
    return serving
