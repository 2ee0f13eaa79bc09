"""transformers' indexers over our pages, and what they choose as a `Selection`.

An indexer scores the keys that it has kept of a sequence and returns which positions each query attends to:
as indices, as indices of blocks, or as a mask. Everything else in a layer runs once for the flat batch; the
indexer runs for each group of chunks, since it looks at whole sequences. Its choice passes through the layer
unread, to the layer's attention and to layers that share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from neuron.device.selection import IndexGroup, Selection, index_groups
from neuron.models.state_interface import Cut, SlotStates, StateProbe, layer_types

# transformers' types of layers with an indexer.
INDEXED_LAYERS = frozenset({"indexed_attention", "minimax_m3_sparse"})
PROBE_TOKENS = 16


def has_indexers(text_config: Any) -> bool:
    return not INDEXED_LAYERS.isdisjoint(layer_types(text_config))


class IndexProbe(StateProbe):
    """transformers' cache of one short sequence, which also notes the index keys and whose they are."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dims: dict[int, int] = {}  # of the index keys, by layer
        self.indexers: dict[torch.nn.Module, None] = {}
        self.tokens: tuple[int, ...] = ()
        self.logits = torch.empty(0)  # after the tokens, (vocab,)
        for index, layer in enumerate(self.layers):
            for name in ("update_indexer", "update_index"):
                if update := getattr(layer, name, None):
                    setattr(layer, name, partial(self._note_keys, index, update))

    def _note_keys(self, layer: int, update: Any, keys: Tensor) -> Tensor:
        self.dims[layer] = keys.shape[-1]
        self.indexers[self._running[-1]] = None
        return cast("Tensor", update(keys))


class IndexedStates(SlotStates):
    """A cache for transformers' layers whose indexers read and write the pages of a step."""

    def __init__(self) -> None:
        super().__init__()
        self._index: IndexGroup | None = None

    @contextmanager
    def indexing(self, group: IndexGroup) -> Iterator[None]:
        """Have the index keys of `group` inside the block."""
        self._index = group
        yield
        self._index = None

    @property
    def index(self) -> IndexGroup:
        assert self._index, "only indexers that run group by group have index keys"
        return self._index

    # What follows has the names and signatures of transformers' `Cache`.

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        return self.index.update(layer_idx, indexer_key_states)

    @property
    def layers(self) -> _Layers:
        return _Layers(self)


class _Layers:
    def __init__(self, cache: IndexedStates) -> None:
        self._cache = cache

    def __getitem__(self, index: int) -> _Layer:
        return _Layer(self._cache, index)


class _Layer:
    """One layer of the cache, with what transformers' indexers look for in theirs."""

    def __init__(self, cache: IndexedStates, index: int) -> None:
        self._cache = cache
        self._number = index

    def update_index(self, keys: Tensor) -> Tensor:
        return self._cache.update_indexer(keys[:, 0], self._number)[:, None]

    def get_seq_length(self) -> int:
        return self._cache.index.length

    @property
    def keys(self) -> Tensor:
        return torch.empty(self.get_seq_length(), 0)  # only asked for its size


class IndexerModule:
    """The forward of an indexer, run group by group. It returns a `Selection`."""

    def __init__(self, module: Any) -> None:
        self._forward = module.forward
        self._signature = inspect.signature(self._forward)
        self._block_size: int = getattr(module, "block_size", 1)
        # Without positions it counts from the end of its keys: each sequence runs alone.
        self._is_told_positions = bool(
            {"position_ids", "position_embeddings"} & set(self._signature.parameters)
        )
        module.forward = self._run

    def _run(self, *args: Any, **kwargs: Any) -> Selection:
        arguments = self._signature.bind(*args, **kwargs).arguments
        groups = index_groups()
        if groups is None:
            return Selection((self._positions(self._forward(**arguments)),))
        cache = next(value for value in arguments.values() if isinstance(value, IndexedStates))
        parts: list[Tensor] = []
        for group in groups:
            alike = [group] if self._is_told_positions else group.one_by_one()
            chosen = [self._choose(cache, each, arguments, groups[-1].end) for each in alike]
            most = max(positions.shape[-1] for positions in chosen)
            parts.append(torch.cat([pad(each, (0, most - each.shape[-1]), value=-1) for each in chosen]))
        return Selection(tuple(parts))

    def _choose(
        self, cache: IndexedStates, group: IndexGroup, arguments: dict[str, Any], num_tokens: int
    ) -> Tensor:
        """Return the positions that the queries of a group attend to, (rows, heads, width, k)."""
        own = Cut(group, slice(None), num_tokens)(arguments)
        given = arguments.get("attention_mask")
        if given is not None and given.ndim > 2:  # a stand-in for the mask of the group
            mask = group.mask(arguments["hidden_states"].dtype)
            own["attention_mask"] = mask if given.ndim == 4 else mask[:, 0]
        with cache.indexing(group):
            return self._positions(self._forward(**own))

    def _positions(self, chosen: Tensor) -> Tensor:
        """Return an indexer's result as positions: indices, those of blocks for each head, or a mask."""
        if chosen.dtype == torch.bool:
            shown, positions = chosen.int().topk(int(chosen.sum(-1).max()))
            return positions.where(shown > 0, -1)
        if chosen.ndim == 3:
            return chosen.long().unsqueeze(1)
        offsets = torch.arange(self._block_size, device=chosen.device)
        positions = chosen.unsqueeze(-1) * self._block_size + offsets
        return positions.where(chosen.unsqueeze(-1) >= 0, -1).flatten(-2)


@torch.inference_mode()
def find_indexers(model: Any) -> IndexProbe:
    """Return what the indexers of a model keep, and make them choose for our attention from now on.

    The model has run some tokens by transformers' own attention, and has still that.
    """
    index = IndexProbe(model.config)
    tokens = torch.arange(1, PROBE_TOKENS + 1, device=model.device)[None]
    model.set_attn_implementation("eager")
    with index.watching(model):
        out = model(input_ids=tokens, past_key_values=index, use_cache=True)
    index.tokens, index.logits = tuple(tokens[0].tolist()), out.logits[0, -1]
    for indexer in index.indexers:
        IndexerModule(indexer)
    for module in model.modules():
        if hasattr(module, "build_attention_mask_from_topk"):
            module.build_attention_mask_from_topk = _pass_on
    return index


def _pass_on(topk_indices: Selection, **_: Any) -> Selection:
    return topk_indices
