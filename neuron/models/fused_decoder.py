"""A decoder of our own for the common shape: Llama, Mistral, Qwen2 and Qwen3.

transformers' layers are general; one token through them is some 40 operations a layer, each costing more to
call than to compute. This one does the same arithmetic in half as many: one product for query, key and value,
one for gate and up, norm and rotation of queries and keys together; see `product` for how they multiply.

`fuse` takes the weights out of a loaded model of transformers, so that they are never held twice; what it
does not know exactly stays with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding, silu

from neuron.device.attention import AttentionParams, attend
from neuron.models.attention_interface import AttentionProbe
from neuron.models.linear import PackedLinear, activation_dtype, pack_linear

if TYPE_CHECKING:
    from neuron.models.image_processor import ImageProcessor

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_STATIC_ROPES = frozenset({"default", "linear", "llama3", "yarn"})  # the same for every length

ImageEmbeddings = Sequence[
    tuple[torch.Tensor, torch.Tensor]
]  # places in the flat row, and what is read there


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One decoder layer. Products map (tokens, in) to (tokens, out)."""

    norm: torch.Tensor  # (hidden,)
    qkv: PackedLinear
    qk_norm: torch.Tensor | None  # (heads + kv_heads, head_dim)
    out: PackedLinear
    mlp_norm: torch.Tensor
    gate_up: PackedLinear
    down: PackedLinear
    params: AttentionParams


class FusedDecoder:
    """A `neuron.device.model_runner.Forward`; attributes as `loading.Decoder` has them."""

    is_capturable = True

    def __init__(
        self, model: Any, text: Any, probe: AttentionProbe, *, vocab_size: int, context: int
    ) -> None:
        body = model.get_decoder()  # of a model that sees, the part that reads
        self.vision_encoder: ImageProcessor | None = None
        self.vocab_size = vocab_size
        self.context = context
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self._dtype = activation_dtype(self.device, self.dtype)  # of what is between the products
        self.num_embeddings: int = body.embed_tokens.num_embeddings
        self.layers = probe.layers
        shape = probe.layers[0]
        self._heads, self._kv_heads, self._head_dim = text.num_attention_heads, shape.kv_heads, shape.key_dim
        self._eps = torch.tensor(text.rms_norm_eps, device=self.device)
        self._embed = body.embed_tokens.weight
        self._rotary = body.rotary_emb
        self._sign = torch.ones(self._head_dim, dtype=self._dtype, device=self.device)
        self._sign[: self._head_dim // 2] = -1
        self._layers = [self._fuse(layer, probe.params[i]) for i, layer in enumerate(body.layers)]
        self._norm = body.norm.weight.float()
        self._lm_head = pack_linear([model.lm_head])

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        logits_indices: torch.Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> torch.Tensor:
        """`tokens` and `positions` (n,), `last` (rows,) the indices wanted; float32 logits (rows, vocab)."""
        x = insert_image_embeddings(embedding(tokens, self._embed).to(self._dtype), image_embeddings)
        rotation = self._rotation(x, positions)
        for index, layer in enumerate(self._layers):
            x = self._attend(index, layer, x, rotation)
            x = self._feed_forward(layer, x)
        if len(logits_indices) != len(x):
            x = x[logits_indices]
        return self._lm_head(self._rms_norm(x, self._norm)).float()

    @property
    def linears(self) -> list[PackedLinear]:
        """The matrix products of a step, in order."""
        layers = ((layer.qkv, layer.out, layer.gate_up, layer.down) for layer in self._layers)
        return [*chain.from_iterable(layers), self._lm_head]

    def _rotation(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, (tokens, 1, head_dim) each, as transformers computes them. The sines of the
        first half are negative: what rotates is then one roll, without a negation."""
        cos, sin = self._rotary(x, positions[None])
        return cos[0].unsqueeze(1), (sin[0] * self._sign).unsqueeze(1)

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Root mean square norm over the last dimension (Zhang and Sennrich 2019), computed in float32, as
        `weight` is. Fewer operations than torch's own is put together from."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(weight).to(self._dtype)

    def _attend(
        self, index: int, layer: FusedLayer, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        heads = layer.qkv(self._rms_norm(x, layer.norm)).view(
            len(x), -1, self._head_dim
        )  # (tokens, q + k + v heads, dim)
        turned = self._heads + self._kv_heads
        qk, value = heads[:, :turned], heads[:, turned:].to(self.dtype)
        if layer.qk_norm is not None:
            qk = self._rms_norm(qk, layer.qk_norm)
        cos, sin = rotation
        qk = torch.addcmul(qk * cos, qk.roll(self._head_dim // 2, -1), sin).to(self.dtype)
        seen = attend(index, qk[:, : self._heads], qk[:, self._heads :], value, params=layer.params)
        return layer.out(seen.reshape(len(x), -1).to(self._dtype)).add_(x)

    def _feed_forward(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up(self._rms_norm(x, layer.mlp_norm)).chunk(2, -1)
        return layer.down(silu(gate).mul_(up)).add_(x)

    def _fuse(self, layer: Any, params: AttentionParams) -> FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        return FusedLayer(
            norm=layer.input_layernorm.weight.float(),
            qkv=pack_linear([attention.q_proj, attention.k_proj, attention.v_proj]),
            qk_norm=self._qk_norm(attention),
            out=pack_linear([attention.o_proj]),
            mlp_norm=layer.post_attention_layernorm.weight.float(),
            gate_up=pack_linear([mlp.gate_proj, mlp.up_proj]),
            down=pack_linear([mlp.down_proj]),
            params=params,
        )

    def _qk_norm(self, attention: Any) -> torch.Tensor | None:
        if not hasattr(attention, "q_norm"):
            return None
        query = attention.q_norm.weight.expand(self._heads, -1)
        return torch.cat([query, attention.k_norm.weight.expand(self._kv_heads, -1)]).float()


def insert_image_embeddings(x: torch.Tensor, image_embeddings: ImageEmbeddings) -> torch.Tensor:
    """`x` (tokens, hidden), with what images show in place of their placeholders' embeddings."""
    for places, features in image_embeddings:
        x = x.index_copy(0, places, features.to(x.dtype))
    return x


def fuse(
    model: Any, text: Any, probe: AttentionProbe, *, vocab_size: int, context: int
) -> FusedDecoder | None:
    """The decoder in place of `model`, which is emptied; None when it has not exactly the shape."""
    rope = getattr(text, "rope_parameters", None) or {}
    has_the_shape = (
        text.model_type in FAMILIES
        and text.hidden_act == "silu"
        and rope.get("rope_type", "default") in _STATIC_ROPES
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and len(set(probe.layers.values())) == 1
        and all(params.is_plain for params in probe.params.values())
    )
    if not has_the_shape:
        return None
    with torch.inference_mode():
        return FusedDecoder(model, text, probe, vocab_size=vocab_size, context=context)
