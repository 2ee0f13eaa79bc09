"""The workers that one model is on: one, or as many as it is split over, by rank.

A group shares a memory (`neuron.segment`) from the load of its parts to their unload. It begins anew with
each load: where a rank is lost, the others give up their parts and all are loaded again.

    new -> loading -> loaded -> over (a rank died, hung or failed) -> loading …     `abort`, `prepare`
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import count
from typing import TypedDict

from neuron import pipe
from neuron.segment import SharedSegment
from neuron.supervisor.device_worker import DeviceWorker
from neuron.supervisor.pending import WorkerLoadError


class SharedFiles:
    """What the ranks of one load share. It has no names: ranks open this process's file descriptors."""

    def __init__(self, num_ranks: int) -> None:
        self._memory, self._store = (os.memfd_create(f"neuron-{name}") for name in ("group", "store"))
        self._pipes = [os.pipe() for _ in range(num_ranks)]
        self.segment = SharedSegment(self._memory, num_ranks)

    def place(self, index: int, timeout_s: float) -> pipe.GroupRank:
        """What the worker of a rank is told."""
        wakes = [_path(reader) for reader, _ in self._pipes]
        memory, store = _path(self._memory), _path(self._store)
        return pipe.GroupRank(index, len(self._pipes), memory, store, wakes, timeout_s)

    def close(self) -> None:
        self.segment.close()
        for descriptor in (self._memory, self._store, *(end for ends in self._pipes for end in ends)):
            os.close(descriptor)


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


class _Drafting(TypedDict):
    """What drafts the answers of a rank's model."""

    speculation: str | None
    draft: str | None


class DeviceGroup:
    """The workers of a model. Rank 0, the first, schedules its requests."""

    def __init__(self, workers: Sequence[DeviceWorker], rank_timeout_s: float) -> None:
        self.workers = tuple(workers)
        self._rank_timeout_s = rank_timeout_s
        self._shared: SharedFiles | None = None
        self._adapters: dict[str, int] = {}  # by name, the number that all ranks have each by

    @property
    def first(self) -> DeviceWorker:
        return self.workers[0]

    @property
    def indices(self) -> list[int]:
        """Those of its devices, by rank."""
        return [worker.device.index for worker in self.workers]

    def progress(self, model: str) -> float | None:
        """How far the slowest rank's load has come; None when none loads."""
        found = [worker.progress[model] for worker in self.workers if model in worker.progress]
        return min(found, default=None)

    async def load(
        self,
        model: str,
        path: str,
        quant: str | None,
        kv_dtype: str | None,
        *,
        speculation: str | None = None,
        draft: str | None = None,
    ) -> Sequence[pipe.Loaded]:
        """Load every rank's part; returns what each became. Raises `WorkerLoadError`, and no part is left.

        A draft model is whole on rank 0, which alone samples; the others check what it drafts.
        """
        if len(self.workers) == 1:
            only = self.first.load(model, path, quant, kv_dtype, speculation=speculation, draft=draft)
            return [await only]
        self.close()
        self._shared = shared = SharedFiles(len(self.workers))
        places = [shared.place(index, self._rank_timeout_s) for index in range(len(self.workers))]
        first: _Drafting = {"speculation": speculation, "draft": draft}
        others: _Drafting = {"speculation": "ngram" if draft else speculation, "draft": None}
        loads = [
            asyncio.ensure_future(
                worker.load(model, path, quant, kv_dtype, place, **(others if place.index else first))
            )
            for worker, place in zip(self.workers, places, strict=True)
        ]
        try:
            return await asyncio.gather(*loads)
        except WorkerLoadError as error:
            self.abort(error.message)
            outcomes = await asyncio.gather(*loads, return_exceptions=True)
            await self.unload(model)
            raise _cause(outcomes) from error
        except BaseException:
            self.abort("the load was given up")
            raise

    async def unload(self, model: str, *, keep: bool = False, priority: int = 0) -> int | None:
        """Drop the model everywhere, on rank 0 first: it tells no plan to ranks that have gone.

        With `keep` it falls asleep if all ranks have room; returns the MiB of the host that it takes then.
        """
        self._adapters.clear()
        kept = [await self.first.unload(model, keep=keep, priority=priority)]
        self.abort("the model was unloaded")
        others = self.workers[1:]
        keep = kept[0] is not None
        kept += await asyncio.gather(*(rank.unload(model, keep=keep, priority=priority) for rank in others))
        self.close()
        sizes = [size for size in kept if size is not None]
        if len(sizes) == len(self.workers):
            return sum(sizes)
        if sizes:
            await asyncio.gather(*(worker.unload(model) for worker in self.workers))
        return None

    async def load_adapter(self, name: str, path: str, base: str) -> Sequence[pipe.Loaded]:
        """Load an adapter over the model on all ranks; returns what it takes of each.

        Raises `WorkerLoadError`, and no rank has it.
        """
        used = self._adapters.values()
        number = self._adapters.setdefault(name, next(free for free in count() if free not in used))
        loads = [worker.load_adapter(name, path, base, number) for worker in self.workers]
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
        parts = [outcome for outcome in outcomes if isinstance(outcome, pipe.Loaded)]
        if len(parts) < len(loads):
            await self.unload_adapter(name)
            raise _cause(outcomes)
        return parts

    async def unload_adapter(self, name: str) -> None:
        """Drop an adapter everywhere, on rank 0 first, for whose requests the others need it."""
        await self.first.unload(name)
        await asyncio.gather(*(worker.unload(name) for worker in self.workers[1:]))
        self._adapters.pop(name, None)

    @property
    def overhead_ns(self) -> int | None:
        """What the last step's plan took to reach all ranks; None of a model on one device."""
        return self._shared.segment.overhead_ns() if self._shared else None

    def abort(self, reason: str) -> None:
        """Let every rank that waits for another give up."""
        if self._shared:
            self._shared.segment.abort(reason)

    def end_silent(self) -> None:
        """End the processes of ranks that others waited for in vain, and that gave no sign of life since."""
        for index in self._shared.segment.silent if self._shared else ():
            self.workers[index].end_silent(self._rank_timeout_s)

    async def prepare(self, model: str) -> None:
        """Return when every worker is ready and has nothing of the model. Raises `WorkerLoadError`."""
        if len(self.workers) > 1:
            await self.unload(model)
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Return when every worker is ready. Raises `WorkerLoadError`."""
        for worker in self.workers:
            await worker.wait_ready()

    def close(self) -> None:
        """Give up what the ranks share; those that run have it mapped."""
        if self._shared:
            self._shared.close()
            self._shared = None


def _cause(outcomes: Sequence[pipe.Loaded | BaseException]) -> WorkerLoadError:
    """The error of the rank that failed first by itself: others failed since it did."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, WorkerLoadError)]
    own = [error for error in errors if error.code != "group_failed"]
    return (own or errors)[0]
