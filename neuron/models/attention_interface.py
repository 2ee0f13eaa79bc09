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
from neuron.device.selection import Compressed, Selection
from neuron.models.latent_interface import latent_projection
from neuron.step import PromptRule

ATTENTION_NAME = "neuron_paged"
INDEXED_NAME = "neuron_paged_indexed"  # the same with masks, for layers that give them to an indexer
PROBE_NAME = "neuron_probe"

# Tensors among the options that do not change what is computed. Any other would.
_IGNORED = {"position_ids", "cache_position", "logits_to_keep"}
_CHOSEN = {"indices", "block_indices"}  # by indexers

MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor | bool]  # of batch, head, query and key


class UnsupportedAttentionError(Exception):
    """A model asks of its attention what the paged cache does not do; the message says what."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Which positions a token sees: `AttentionParams`' window, chunk and prompt."""

    window: int | None = None
    chunk: int | None = None
    prompt: PromptRule | None = None

    def shows(self, query: int, key: int) -> bool:
        """Return whether a token of a prompt sees another."""
        if self.prompt:
            return key <= query or self.prompt is PromptRule.WHOLE
        in_window = self.window is None or key > query - self.window
        in_chunk = self.chunk is None or key // self.chunk == query // self.chunk
        return key <= query and in_window and in_chunk


class _Pass:
    """One way through a model's layers: `spans` are those of its attends, unknown while it is probed."""

    def __init__(self, spans: Mapping[int, AttentionSpan], masks: MaskRecorder | None = None) -> None:
        self.spans = spans
        self.masks = masks
        self._names: set[int] = set()

    def name(self, layer: int | None) -> int:
        """Return the name under which the next attend stores keys and values, the same in every pass.

        A layer's first attend is named by the layer. Others are -2, -3, …: those of layers that attend again,
        and of layers that share one attention, which does not know whose it is.
        """
        is_first = layer is not None and layer >= 0 and layer not in self._names
        name = layer if layer is not None and is_first else -2 - sum(known < 0 for known in self._names)
        self._names.add(name)
        return name


_pass: ContextVar[_Pass] = ContextVar("pass")


@contextmanager
def use_spans(spans: Mapping[int, AttentionSpan]) -> Iterator[None]:
    """Let each attend of the model that runs once inside the block see its span."""
    with _passing(_Pass(spans)):
        yield


@contextmanager
def _passing(through: _Pass) -> Iterator[None]:
    token = _pass.set(through)
    try:
        yield
    finally:
        _pass.reset(token)


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Selection | Mapping[int, Compressed] | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return (1, tokens, heads, dim) for query, key and value of (1, heads, tokens, dim) each.

    The signature is that of transformers' attention functions. Raises UnsupportedAttentionError.
    """
    given = (attention_mask, *options.values())
    selection = next((value for value in given if isinstance(value, Selection)), None)
    for name, option in options.items():
        if isinstance(option, Tensor) and name != "s_aux" and name not in _IGNORED:
            unknown = ", but its layer_types name no layer with an indexer" if name in _CHOSEN else ""
            raise UnsupportedAttentionError(f"its attention needs {name}{unknown}")
    through = _pass.get()
    layer = through.name(getattr(module, "layer_idx", None))
    mask = attention_mask if isinstance(attention_mask, Tensor) else None
    span = through.masks.span(mask, options) if through.masks else through.spans[layer]
    scale = options.get("scaling")
    latent = latent_projection(module)
    params = AttentionParams(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=span.window,
        chunk=span.chunk,
        prompt=span.prompt,
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
        latent=latent,
        selection=selection,
        compressed=attention_mask.get(layer) if isinstance(attention_mask, Mapping) else None,
    )
    if latent:
        key = value = torch.cat([key, value], dim=-1)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(layer, query, key, value, params=params).unsqueeze(0), None


class MaskRecorder:
    """The masks that a model makes during a probe, each with its rule.

    If the model `is_told` that all tokens are a prompt, they may see later ones.
    """

    def __init__(self, *, is_told: bool) -> None:
        self._is_told = is_told
        self._masks: list[tuple[Tensor, AttentionSpan | str]] = []  # a rule that we lack is the words for it

    def make(
        self, mask_function: MaskFunction, count: int, local_size: int | None, device: torch.device
    ) -> Tensor:
        """Return the mask for `count` tokens, (1, 1, count, count), true where a query sees a key."""
        indices = [torch.tensor(position) for position in range(count)]
        rows = [[bool(mask_function(0, 0, query, key)) for key in indices] for query in indices]
        mask = torch.tensor(rows, device=device)[None, None]
        if self._is_told and bool(mask.all()):
            rule: AttentionSpan | str = AttentionSpan(window=local_size, prompt=PromptRule.WHOLE)
        else:
            rule = _rule(mask_function, rows, local_size)
        self._masks.append((mask, rule))
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
        span = _local_span(mask_function, local_size)
    seen = [(query, key) for query, row in enumerate(rows) for key, shown in enumerate(row) if shown]
    if any(key > query for query, key in seen):
        return _BIDIRECTIONAL
    count = range(len(rows))
    if seen != [(query, key) for query in count for key in count if span.shows(query, key)]:
        return _OWN_MASK
    return span


def _local_span(mask_function: MaskFunction, size: int) -> AttentionSpan:
    """Return the span of a rule that says of itself that it is local, and of which size."""

    def shows(query: int, key: int) -> bool:
        return bool(mask_function(0, 0, torch.tensor(query), torch.tensor(key)))

    try:
        if all(shows(3 * size, key) for key in (0, size, 2 * size)):  # while all tokens are a prompt's
            return AttentionSpan(window=size, prompt=PromptRule.KEPT)
        # Whether the first token of the third chunk sees the last of the second.
        is_window = size == 1 or shows(2 * size, 2 * size - 1)
    except IndexError:  # the rule also looks up the tokens at these positions; only windows come with that
        is_window = True
    return AttentionSpan(window=size) if is_window else AttentionSpan(chunk=size)


def _record_mask(
    *,
    mask_function: MaskFunction,
    kv_length: int,
    device: torch.device,
    local_size: int | None = None,
    **_: Any,
) -> Tensor | None:
    """Return a mask during a probe, with the signature of transformers' mask functions."""
    masks = _pass.get().masks
    return masks.make(mask_function, kv_length, local_size, device) if masks else None


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
        return {
            name: AttentionSpan(params.window, params.chunk, params.prompt)
            for name, params in self.params.items()
        }

    @contextmanager
    def recording(self, *, is_told: bool = False) -> Iterator[None]:
        """Note the masks that are made inside the block, by models with `PROBE_NAME`.

        The model `is_told` if its inputs say which of the tokens are a prompt.
        """
        with _passing(_Pass({}, MaskRecorder(is_told=is_told))):
            yield

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        is_latent = params.latent is not None
        self.layers[layer] = KVShape(key.shape[1], key.shape[2], value.shape[2], values_are_keys=is_latent)
        self.params[layer] = params
        is_grouped = query.shape[1] != key.shape[1] and not is_latent
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        if params.latent:
            key, value = params.latent.expand(key)
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=params.prompt is not PromptRule.WHOLE,
            scale=params.scale,
            enable_gqa=is_grouped,
        )
        out = out[0].transpose(0, 1)
        return out[..., : params.latent.value_dim] if params.latent else out


AttentionInterface.register(ATTENTION_NAME, paged_attention)
AttentionInterface.register(INDEXED_NAME, paged_attention)
AttentionInterface.register(PROBE_NAME, paged_attention)
AttentionMaskInterface.register(INDEXED_NAME, stand_in_mask)
AttentionMaskInterface.register(PROBE_NAME, _record_mask)
