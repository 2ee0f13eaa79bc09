"""Decode steps recorded once for each size of batch, and replayed as one call of C.

On a CPU everything between a step's products takes longer to call than to compute, and the threads of
`ext.matmul` fall asleep while it is called. A recorded step reads its inputs from tensors that stay. Those
between its operations are in memory that stays: `neuron.device.recorded_memory`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ext import matmul
from neuron.device import row_steps
from neuron.device.attention import AttentionParams, use_backend
from neuron.device.attention_step import attend_in_place
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.logits_rows import StepLogits, is_decode_step
from neuron.device.model import DecoderModel, RecordableModel, hidden_states
from neuron.device.recorded_memory import RecordedMemory
from neuron.device.state_pool import StateGroup, StatePool, use_state_groups
from neuron.step import Chunk

log = logging.getLogger("neuron.device")

_native: Any = matmul.load()
_MAKING = frozenset({"empty", "empty_like", "empty_strided", "new_empty"})


class DecodePrograms:
    """Computes logits of decode steps by replaying recordings. Made and run by the device's thread."""

    def __init__(
        self, model: RecordableModel, cache: KVCache, table: PageTable, states: StatePool | None
    ) -> None:
        self._model = model
        self._cache = cache
        self._table = table
        self._states = states
        self._memory = RecordedMemory()
        self._programs: dict[int, _Program] = {}
        self._is_off = False

    def fit(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether these are a decode step that can be recorded, or is."""
        if self._is_off or not is_decode_step(chunks):
            return False
        return self._model.reaches(max(chunk.start for chunk in chunks))

    def run(self, chunks: Sequence[Chunk]) -> StepLogits:
        """Return the logits after each of `chunks`, which have one token each. Valid until the next call."""
        found = self._run(chunks)
        whole = self._model.finish(found.values)
        return found if whole is found.values else StepLogits(whole, hidden=found.hidden)

    def _run(self, chunks: Sequence[Chunk]) -> StepLogits:
        count = len(chunks)
        if count in self._programs:
            return self._programs[count].run(chunks)
        program = _Program(self._model, self._cache, self._table, self._states, count)
        found = program.record(chunks, self._memory)
        self._programs[count] = program
        if program.foreign:
            self._is_off = True
            self._programs.clear()
            self._memory = RecordedMemory()
            log.warning("decode steps cannot be recorded", extra={"operations": sorted(program.foreign)})
        return found


class _Program:
    """The step of a batch of one size."""

    def __init__(
        self,
        model: RecordableModel,
        cache: KVCache,
        table: PageTable,
        states: StatePool | None,
        count: int,
    ) -> None:
        self._model = model
        numbers = torch.zeros(3, count, dtype=torch.int64)
        self._tokens, self._positions, self._slots = numbers
        self._numbers = numbers.numpy()
        self._attention = InPlaceAttention(cache, table, self._slots, self._positions)
        self._groups = [StateGroup(states, self._slots, 0, 1, is_fresh=False)] if states else []
        self._embedded: Tensor | None = None
        self._logits = torch.empty(0)
        self._hidden: Tensor | None = None
        self._largest = torch.empty(count, dtype=torch.int64)
        self._places = self._largest.numpy()
        self._recording: object = None
        self.foreign: set[str] = set()  # operations that could not be recorded

    def record(self, chunks: Sequence[Chunk], memory: RecordedMemory) -> StepLogits:
        """Compute what `run` does, and keep how."""
        self._take(chunks)
        if not self._model.embeds:
            self._embedded = self._model.embed(self._tokens).clone()
        _native.record()
        try:
            with (
                _Watch(memory) as watch,
                use_backend(self._attention),
                use_state_groups(self._groups),
            ):
                self._attention.locate()
                logits = self._model.compute(self._tokens, self._positions, self._embedded)
                row_steps.find_largest(logits, self._largest)
        finally:
            self._recording = _native.recorded()
        self.foreign = watch.foreign
        self._logits = memory.lend(logits)
        if (hidden := hidden_states(self._model)) is not None:
            self._hidden = memory.lend(hidden)
        return self._found

    def run(self, chunks: Sequence[Chunk]) -> StepLogits:
        self._take(chunks)
        if self._embedded is not None:
            self._embedded.copy_(self._model.embed(self._tokens))
        _native.replay(self._recording)
        return self._found

    @property
    def _found(self) -> StepLogits:
        return StepLogits(self._logits, self._places.tolist(), self._hidden)

    def _take(self, chunks: Sequence[Chunk]) -> None:
        self._numbers[:] = list(zip(*((c.tokens[0], c.start, c.slot) for c in chunks), strict=True))


class InPlaceAttention:
    """The `AttentionBackend` of steps of one token a sequence, in C alone."""

    takes_floats = True

    def __init__(self, cache: KVCache, table: PageTable, slots: Tensor, positions: Tensor) -> None:
        self._cache = cache
        self._table = table.pages
        self._slots, self._positions = slots, positions
        self._pages = torch.empty(len(slots), self._table.shape[1], dtype=torch.int64)
        self._ends, self._places = torch.empty_like(slots), torch.empty_like(slots)

    def locate(self) -> None:
        """Find where the step's tokens are; before anything else."""
        size = self._cache.shape.page_size
        outs = self._pages, self._ends, self._places
        row_steps.locate(self._slots, self._positions, self._table, size, outs)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        keys, values = self._cache.pools(layer)
        row_steps.store(key, self._places, keys)
        row_steps.store(value, self._places, values)
        return attend_in_place(query, keys, values, self._pages, self._ends, params)


def find_programs(
    model: DecoderModel,
    layers: Iterable[int],
    cache: KVCache,
    table: PageTable,
    states: StatePool | None,
) -> DecodePrograms | None:
    """Return the programs of a model whose decode steps run in C alone; None for others."""
    runs = _native is not None and model.device.type == "cpu" and all(map(cache.stores_plainly, layers))
    if runs and isinstance(model, RecordableModel) and model.is_recordable:
        return DecodePrograms(model, cache, table, states)
    return None


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives what torch makes inside the block memory that stays, and notes what does more than make room or
    tell a place."""

    def __init__(self, memory: RecordedMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.foreign: set[str] = set()
        self._memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in _MAKING:
            return self._memory.like(result)
        made = list(result) if isinstance(result, list | tuple) else [result]
        known = {_storage(x) for x in args if isinstance(x, Tensor)}
        is_view = not name.endswith("_") and all(isinstance(x, Tensor) and _storage(x) in known for x in made)
        if not is_view:
            self.foreign.add(name)
        return result


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
