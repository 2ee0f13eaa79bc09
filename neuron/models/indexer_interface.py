"""transformers' indexers over our pages, and what they choose as a `Selection`.

An indexer scores the keys that it has kept of a sequence and returns which positions each query attends to:
as indices, as indices of blocks, or as a mask. Everything else in a layer runs once for the flat batch; the
indexer runs for each group of chunks, since it looks at whole sequences. Its choice passes through the layer
unread, to the layer's attention and to layers that share it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neuron.device.selection import Compressed, IndexGroup, Selection, index_groups
from neuron.models.attention_interface import attention_of_text
from neuron.models.checkpoint import Checkpoint, model_broken
from neuron.models.config_sizes import INDEXED_LAYERS
from neuron.models.index_cache import IndexedStates, IndexProbe
from neuron.models.state_interface import Cut, layer_types, outermost

PROBE_TOKENS = 16

_POSITIVE = ("index_topk", "index_topk_blocks", "index_block_size", "index_n_heads", "index_head_dim")


def has_indexers(text_config: Any) -> bool:
    return not INDEXED_LAYERS.isdisjoint(layer_types(text_config))


def check_index(checkpoint: Checkpoint, text_config: Any) -> None:
    """Refuse a configuration by which indexers choose nothing. Raises ModelLoadError."""
    if not has_indexers(text_config):
        return
    file = checkpoint.config_file
    for key in _POSITIVE:
        value = getattr(text_config, key, None)
        if isinstance(value, int) and value < 1:
            raise model_broken(file, f"{key} is {value}, but layers with an indexer need 1 or more")
    modes, types = getattr(text_config, "indexer_types", None), layer_types(text_config)
    if modes and len(modes) < len(types):
        raise model_broken(file, f"indexer_types names {len(modes)} of {len(types)} layers; it must name all")
    indexed = [at for at, kind in enumerate(types) if kind in INDEXED_LAYERS]
    if modes and modes[indexed[0]] == "shared":
        cause = f"indexer_types[{indexed[0]}] is shared, but no layer before it chooses; it must be full"
        raise model_broken(file, cause)


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
        cut = Cut(group, slice(None), num_tokens)
        own = cut(arguments)
        given = arguments.get("attention_mask")
        if given is not None and given.ndim > 2:  # a stand-in for the mask of the group
            mask = group.mask(arguments["hidden_states"].dtype)
            own["attention_mask"] = mask if given.ndim == 4 else mask[:, 0]
        if rotations := [
            each for each in arguments.get("position_embeddings", ()) if each.shape[1] > num_tokens
        ]:
            own["position_embeddings"] = [_whole_and_own(each, group, cut, num_tokens) for each in rotations]
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


def _whole_and_own(rotation: Tensor, group: IndexGroup, cut: Cut, num_tokens: int) -> Tensor:
    """Return the rotations of a group's sequences, and after them those of its queries.

    `rotation` has those of every position, and after them those of the flat batch.
    """
    own: Tensor = cut(rotation[:, -num_tokens:])
    return torch.cat([rotation[:, : group.length].expand(group.rows, -1, -1), own], dim=1)


class CompressorModule:
    """The forward of a compressor, run group by group: its entries go to the attention as `Compressed`."""

    def __init__(self, module: Any) -> None:
        self._forward = module.forward
        self._rate: int = module.compress_rate
        self._head_dim: int = module.head_dim
        module.forward = self._run

    def _run(
        self, hidden_states: Tensor, q_residual: Tensor, position_ids: Tensor, cache: Any, layer_idx: int
    ) -> tuple[Tensor, None]:
        """Return no entries, since those of the groups are not alike."""
        parts: list[tuple[Tensor, Tensor]] = []
        groups = index_groups() or ()
        for group in groups:
            cut = Cut(group, slice(None), groups[-1].end)
            own = cut((hidden_states, q_residual, position_ids))
            with cache.indexing(group):
                entries, bias = self._forward(*own, cache, layer_idx)
            parts.append((entries, self._hidden(entries, own[2]) if bias is None else bias))
        if groups:
            cache.compressed[layer_idx] = Compressed(tuple(parts))
        return hidden_states.new_zeros(1, 1, 0, self._head_dim), None

    def _hidden(self, entries: Tensor, positions: Tensor) -> Tensor:
        """Return what hides entries of tokens that queries do not see, (rows, 1, width, entries)."""
        complete = (positions + 1) // self._rate
        hidden = torch.arange(entries.shape[2], device=entries.device) >= complete[:, None, :, None]
        mask = entries.new_zeros(hidden.shape)
        return mask.masked_fill_(hidden, float("-inf"))


@torch.inference_mode()
def find_indexers(model: Any) -> IndexProbe:
    """Return what the indexers of a model keep, and make them choose for our attention from now on.

    The model has run some tokens by transformers' own attention, and has still that.
    """
    index = IndexProbe(model.config)
    tokens = torch.arange(1, PROBE_TOKENS + 1, device=model.device)[None]
    model.set_attn_implementation(attention_of_text("eager", model.config))
    with index.watching(model):
        out = model(input_ids=tokens, past_key_values=index, use_cache=True)
    index.tokens, index.logits = tuple(tokens[0].tolist()), out.logits[0, -1]
    for indexer in index.indexers:
        IndexerModule(indexer)
    for compressor in outermost(index.compressors):
        CompressorModule(compressor)
    for module in model.modules():
        if hasattr(module, "build_attention_mask_from_topk"):
            module.build_attention_mask_from_topk = _pass_on
    return index


def _pass_on(topk_indices: Selection, **_: Any) -> Selection:
    return topk_indices
