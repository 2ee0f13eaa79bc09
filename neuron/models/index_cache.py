"""Our pages where transformers' indexers and compressors expect a cache.

Both look at what they have kept of a whole sequence, token by token. While a model is probed, transformers'
own cache shows how much that is, and whose it is. Afterwards `IndexedStates` takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuron.device.selection import Compressed, IndexGroup, index_groups
from neuron.models.state_interface import SlotStates, StateProbe


class Compression(NamedTuple):
    """What a compressor keeps of a token: part of the layer's index key."""

    start: int  # in the index key
    rate: int  # tokens that become one entry


class IndexProbe(StateProbe):
    """transformers' cache of one short sequence, which also notes the index keys and whose they are."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dims: dict[int, int] = {}  # of the index keys, by layer
        self.compressions: dict[tuple[int, str], Compression] = {}  # by layer and name
        self.indexers: dict[torch.nn.Module, None] = {}
        self.compressors: dict[torch.nn.Module, None] = {}
        self.tokens: tuple[int, ...] = ()
        self.logits = torch.empty(0)  # after the tokens, (vocab,)
        for index, layer in enumerate(self.layers):
            for name in ("update_indexer", "update_index"):
                self._watch(layer, name, partial(self._note_keys, index))
            self._watch(layer, "store_compression_weights", partial(self._note_compression, index))

    @staticmethod
    def _watch(layer: Any, name: str, note: Any) -> None:
        """Have `note` called before a method of a layer of the cache, where it has such a method."""
        if method := getattr(layer, name, None):

            def noting(*args: Any) -> Any:
                note(layer, *args)
                return method(*args)

            setattr(layer, name, noting)

    def _note_keys(self, index: int, _: Any, keys: Tensor) -> None:
        self.dims[index] = keys.shape[-1]
        self.indexers[self._running[-1]] = None

    def _note_compression(self, index: int, layer: Any, name: str, kv: Tensor, gate: Tensor) -> None:
        start = self.dims.get(index, 0)
        self.compressions[index, name] = Compression(start, layer.compress_rate)
        self.dims[index] = start + kv.shape[-1] + gate.shape[-1]
        self.compressors[self._running[-1]] = None


class IndexedStates(SlotStates):
    """A cache for transformers' layers whose indexers and compressors read and write the pages of a step."""

    def __init__(self, index: IndexProbe | None) -> None:
        super().__init__()
        self._probe = index
        self._indexed: IndexGroup | None = None
        self.compressed: dict[int, Compressed] = {}  # by layer

    @contextmanager
    def indexing(self, group: IndexGroup) -> Iterator[None]:
        """Have the index keys of `group` inside the block."""
        self._indexed = group
        yield
        self._indexed = None

    @property
    def indexed(self) -> IndexGroup:
        assert self._indexed, "only modules that run group by group have index keys"
        return self._indexed

    def compression(self, layer: int, name: str) -> Compression:
        assert self._probe, "layers that compress have been probed"
        return self._probe.compressions[layer, name]

    # What follows has the names and signatures of transformers' `Cache`.

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        return self.indexed.update(layer_idx, indexer_key_states)

    @property
    def layers(self) -> _Layers:
        return _Layers(self)


class _Layers:
    def __init__(self, cache: IndexedStates) -> None:
        self._cache = cache

    def __getitem__(self, index: int) -> _Layer:
        return _Layer(self._cache, index)


class _Layer:
    """One layer of the cache, with what transformers' indexers and compressors look for in theirs."""

    def __init__(self, cache: IndexedStates, index: int) -> None:
        self._cache = cache
        self._index = index

    # Layers with states look for them here in transformers 5.17.

    record_past = False

    @property
    def conv_states(self) -> list[Tensor | None]:
        return [self._cache.get_conv_state(self._index)]

    @property
    def recurrent_states(self) -> list[Tensor | None]:
        return [self._cache.get_recurrent_state(self._index)]

    def update_index(self, keys: Tensor) -> Tensor:
        return self._cache.update_indexer(keys[:, 0], self._index)[:, None]

    def get_seq_length(self) -> int:
        return self._cache.indexed.length

    @property
    def keys(self) -> Tensor:
        return torch.empty(self.get_seq_length(), 0)  # only asked for its size

    @property
    def indexer_position_ids(self) -> Tensor:
        """The positions of the longest sequence, (3, 1, tokens): a model rotates by them and by its own."""
        groups = index_groups()
        assert groups, "every step has some"
        longest = max(group.length for group in groups)
        return torch.arange(longest, device=groups[0].device).expand(3, 1, -1)

    @indexer_position_ids.setter
    def indexer_position_ids(self, _: Tensor) -> None:
        """Keep no positions: those of pages are known."""

    # Entries are made anew from all of a sequence's tokens, so that pages hold all there is to keep.

    def store_compression_weights(self, name: str, kv: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, int]:
        start, rate = self._cache.compression(self._index, name)
        kept = self._cache.indexed.update(self._index, torch.cat([kv, gate], dim=-1), start)
        complete = kept[:, : kept.shape[1] // rate * rate]
        return complete[..., : kv.shape[-1]], complete[..., kv.shape[-1] :], 0

    def update_compressor_states(self, _: str, compressed: Tensor) -> Tensor:
        return compressed

    def update_overlap_state(self, *_: object) -> tuple[None, None]:
        return None, None
