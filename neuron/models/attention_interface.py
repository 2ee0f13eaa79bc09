"""Our attention under the names by which transformers' layers call it, and what a model asks of it.

transformers lets a configuration name the attention function of its layers, and a mask function by the same
name. While a model is probed, its layers have `PROBE_NAME`: a mask function of ours notes the rule of every
mask, and the layer that is given the mask has that rule, whatever its arguments say. Afterwards they have
`ATTENTION_NAME`, for which transformers makes no masks: positions alone say which token sees which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape
from neuron.device.selection import Selection

ATTENTION_NAME = "neuron_paged"
INDEXED_NAME = "neuron_paged_indexed"  # the same with masks, for layers that give them to an indexer
PROBE_NAME = "neuron_probe"

# Tensors among the options that do not change what is computed. Any other would.
_IGNORED = {"position_ids", "cache_position", "logits_to_keep"}

MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor | bool]  # of batch, head, query and key


class UnsupportedAttentionError(Exception):
    """A model asks of its attention what the paged cache does not do; the message says what."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Which positions up to its own a token sees: `AttentionParams`' window and chunk."""

    window: int | None = None
    chunk: int | None = None

    def shows(self, query: int, key: int) -> bool:
        in_window = self.window is None or key > query - self.window
        in_chunk = self.chunk is None or key // self.chunk == query // self.chunk
        return key <= query and in_window and in_chunk


_spans: ContextVar[Mapping[int, AttentionSpan]] = ContextVar("spans")
_masks: ContextVar[MaskRecorder | None] = ContextVar("masks", default=None)


@contextmanager
def use_spans(spans: Mapping[int, AttentionSpan]) -> Iterator[None]:
    """Let each layer of the model that runs inside the block see its span."""
    token = _spans.set(spans)
    try:
        yield
    finally:
        _spans.reset(token)


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Selection | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return (1, tokens, heads, dim) for query, key and value of (1, heads, tokens, dim) each.

    The signature is that of transformers' attention functions. Raises UnsupportedAttentionError.
    """
    given = (attention_mask, *options.values())
    selection = next((value for value in given if isinstance(value, Selection)), None)
    for name, option in options.items():
        if isinstance(option, Tensor) and name != "s_aux" and name not in _IGNORED:
            raise UnsupportedAttentionError(f"its attention needs {name}")
    layer: Any = module.layer_idx
    if layer is None:
        raise UnsupportedAttentionError("its layers share an attention that does not know whose it is")
    recorder = _masks.get()
    mask = attention_mask if isinstance(attention_mask, Tensor) else None
    span = recorder.span(mask, options) if recorder else _spans.get()[layer]
    scale = options.get("scaling")
    params = AttentionParams(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=span.window,
        chunk=span.chunk,
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
        selection=selection,
    )
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(layer, query, key, value, params=params).unsqueeze(0), None


class MaskRecorder:
    """The masks that a model makes during a probe, each with its rule."""

    def __init__(self) -> None:
        self._masks: list[tuple[Tensor, AttentionSpan | str]] = []  # a rule that we lack is the words for it

    def make(
        self, mask_function: MaskFunction, count: int, local_size: int | None, device: torch.device
    ) -> Tensor:
        """Return the mask for `count` tokens, (1, 1, count, count), true where a query sees a key."""
        indices = [torch.tensor(position) for position in range(count)]
        rows = [[bool(mask_function(0, 0, query, key)) for key in indices] for query in indices]
        mask = torch.tensor(rows, device=device)[None, None]
        self._masks.append((mask, _rule(mask_function, rows, local_size)))
        return mask

    def span(self, mask: Tensor | None, options: Mapping[str, Any]) -> AttentionSpan:
        """Return the span of a layer that is called with `mask`. Raises UnsupportedAttentionError."""
        if mask is None:
            if options.get("is_causal") is False:
                raise UnsupportedAttentionError(_BIDIRECTIONAL)
            return AttentionSpan(window=options.get("sliding_window"))
        for made, rule in self._masks:
            if made.untyped_storage().data_ptr() == mask.untyped_storage().data_ptr():
                if isinstance(rule, str):
                    raise UnsupportedAttentionError(rule)
                return rule
        raise UnsupportedAttentionError(_OWN_MASK)


_OWN_MASK = "it brings its own attention mask"
_BIDIRECTIONAL = "its tokens attend to later ones"


def _rule(mask_function: MaskFunction, rows: list[list[bool]], local_size: int | None) -> AttentionSpan | str:
    """Return the span of a mask function whose values for the first tokens are `rows`."""
    span = AttentionSpan()
    if local_size is not None:
        if local_size < 1:
            return _OWN_MASK
        is_window = _crosses_chunks(mask_function, local_size)
        span = AttentionSpan(window=local_size) if is_window else AttentionSpan(chunk=local_size)
    seen = [(query, key) for query, row in enumerate(rows) for key, shown in enumerate(row) if shown]
    if any(key > query for query, key in seen):
        return _BIDIRECTIONAL
    count = range(len(rows))
    if seen != [(query, key) for query in count for key in count if span.shows(query, key)]:
        return _OWN_MASK
    return span


def _crosses_chunks(mask_function: MaskFunction, size: int) -> bool:
    """Return whether the first token of the third chunk sees the last of the second, as in a window."""
    if size == 1:
        return True  # either way a token sees itself alone
    try:
        return bool(mask_function(0, 0, torch.tensor(2 * size), torch.tensor(2 * size - 1)))
    except IndexError:  # the rule also looks up the tokens at these positions; only windows come with that
        return True


def _record_mask(
    *,
    mask_function: MaskFunction,
    kv_length: int,
    device: torch.device,
    local_size: int | None = None,
    **_: Any,
) -> Tensor | None:
    """Return a mask during a probe, with the signature of transformers' mask functions."""
    recorder = _masks.get()
    return recorder.make(mask_function, kv_length, local_size, device) if recorder else None


def stand_in_mask(*, device: torch.device, **_: Any) -> Tensor:
    """Return a mask that nobody reads, with the signature of transformers' mask functions."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


class AttentionProbe:
    """An `AttentionBackend` for one short sequence, without a cache: records what layers store and ask."""

    def __init__(self) -> None:
        self.layers: dict[int, KVShape] = {}
        self.params: dict[int, AttentionParams] = {}

    @property
    def spans(self) -> dict[int, AttentionSpan]:
        return {layer: AttentionSpan(params.window, params.chunk) for layer, params in self.params.items()}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note the masks that are made inside the block, by models with `PROBE_NAME`."""
        token = _masks.set(MaskRecorder())
        try:
            yield
        finally:
            _masks.reset(token)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        if layer in self.layers:
            raise UnsupportedAttentionError(f"layer {layer} attends more than once")
        self.layers[layer] = KVShape(key.shape[1], key.shape[2], value.shape[2])
        self.params[layer] = params
        is_grouped = query.shape[1] != key.shape[1]
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=params.scale, enable_gqa=is_grouped
        )
        return out[0].transpose(0, 1)


AttentionInterface.register(ATTENTION_NAME, paged_attention)
AttentionInterface.register(INDEXED_NAME, paged_attention)
AttentionInterface.register(PROBE_NAME, paged_attention)
AttentionMaskInterface.register(INDEXED_NAME, stand_in_mask)
AttentionMaskInterface.register(PROBE_NAME, _record_mask)
