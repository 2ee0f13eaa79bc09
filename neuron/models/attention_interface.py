"""Our attention under the names by which transformers' layers call it, and what a model asks of it.

transformers lets a configuration name the attention function of its layers, and a mask function by the same
name. While a model is probed, its layers have `PROBE_NAME`: a mask function of ours notes the rule of every
mask, and the layer that is given the mask has that rule, whatever its arguments say. Afterwards they have
`ATTENTION_NAME`, for which transformers makes no masks: positions alone say which token sees which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape
from neuron.device.selection import Compressed, Selection
from neuron.models.attention_masks import AttentionSpan, MaskFunction, UnsupportedAttentionError
from neuron.models.latent_interface import latent_projection
from neuron.step import PromptRule

ATTENTION_NAME = "neuron_paged"
INDEXED_NAME = "neuron_paged_indexed"  # the same with masks, for layers that give them to an indexer
PROBE_NAME = "neuron_probe"

# Tensors among the options that do not change what is computed. Any other would.
_IGNORED = {"position_ids", "cache_position", "logits_to_keep"}
_CHOSEN = {"indices", "block_indices"}  # by indexers


class Masks(Protocol):
    """Makes the masks of a model that is probed, and knows the rule of each."""

    def make(
        self, mask_function: MaskFunction, count: int, local_size: int | None, device: torch.device
    ) -> Tensor:
        """Return the mask for `count` tokens, (1, 1, count, count), true where a query sees a key."""
        ...

    def span(self, layer: int, mask: Tensor | None, options: Mapping[str, Any]) -> AttentionSpan:
        """Return the span of a layer that is called with `mask`. Raises UnsupportedAttentionError."""
        ...


class _Pass:
    """One way through a model's layers: `spans` are those of its attends, unknown while it is probed."""

    def __init__(self, spans: Mapping[int, AttentionSpan], masks: Masks | None = None) -> None:
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
    span = through.masks.span(layer, mask, options) if through.masks else through.spans[layer]
    scale = options.get("scaling")
    latent = latent_projection(module)
    params = AttentionParams(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=span.window,
        chunk=span.chunk,
        prompt=span.prompt,
        images=span.images,
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


def attention_of_text(name: str, config: Any) -> str | dict[str, str]:
    """Return the attention of each part of a model: `name` for its text, elsewhere transformers' choice."""
    return {"": name, "text_config": name} if "text_config" in config.sub_configs else name


def stand_in_mask(*, device: torch.device, **_: Any) -> Tensor:
    """Return a mask that nobody reads, with the signature of transformers' mask functions."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


class AttentionProbe:
    """An `AttentionBackend` for one short sequence, without a cache: records what layers store and ask.

    Unless it `attends`, it returns zeros.
    """

    takes_floats = False

    def __init__(self, *, attends: bool = True) -> None:
        self._attends = attends
        self.layers: dict[int, KVShape] = {}
        self.params: dict[int, AttentionParams] = {}

    @property
    def spans(self) -> dict[int, AttentionSpan]:
        return {
            name: AttentionSpan(params.window, params.chunk, params.prompt, params.images)
            for name, params in self.params.items()
        }

    @contextmanager
    def recording(self, masks: Masks) -> Iterator[None]:
        """Have `masks` make those of models with `PROBE_NAME` inside the block."""
        with _passing(_Pass({}, masks)):
            yield

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        is_latent = params.latent is not None
        value_dim = params.latent.value_dim if params.latent else value.shape[2]
        self.layers[layer] = KVShape(key.shape[1], key.shape[2], value.shape[2], values_are_keys=is_latent)
        self.params[layer] = params
        if not self._attends:
            return query.new_zeros(
                *query.shape[:2], params.latent.value_dim if params.latent else value.shape[2]
            )
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
        return out[0].transpose(0, 1)[..., :value_dim]


AttentionInterface.register(ATTENTION_NAME, paged_attention)
AttentionInterface.register(INDEXED_NAME, paged_attention)
AttentionInterface.register(PROBE_NAME, paged_attention)
AttentionMaskInterface.register(INDEXED_NAME, stand_in_mask)
AttentionMaskInterface.register(PROBE_NAME, _record_mask)
