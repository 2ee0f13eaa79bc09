"""A decoder of our own for the common shape: Llama, Mistral, Qwen2 and Qwen3.

transformers' layers are general: one token takes some 40 operations a layer, each of which costs more to call
than to compute. This decoder does the same arithmetic in half as many: one linear layer for query, key and
value, one for gate and up, norm and rotation of queries and keys together. How linear layers multiply is
`linear`'s business.

`fuse_decoder` takes the weights out of a loaded model of transformers, so that none is held twice. A model
that is not exactly of this shape stays with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from neuron.device.attention import AttentionParams, attend
from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.attention_interface import AttentionProbe
from neuron.models.image_input import ImageProcessor
from neuron.models.linear import PackedLinear, activation_dtype, pack_linear
from neuron.step import PromptRule

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_STATIC_ROPES = frozenset({"default", "linear", "llama3", "yarn"})  # the same for sequences of every length


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One decoder layer. Norms are float32, linear layers map (tokens, in) to (tokens, out)."""

    norm: Tensor  # (hidden,)
    qkv: PackedLinear
    qk_norm: Tensor | None  # (heads + kv_heads, head_dim)
    out: PackedLinear
    mlp_norm: Tensor  # (hidden,)
    gate_up: PackedLinear
    down: PackedLinear
    params: AttentionParams


class FusedDecoder:
    """A `neuron.device.model.DecoderModel` with the attributes of `TransformersDecoder`."""

    is_capturable = True
    prompt_rule: PromptRule | None = None

    def __init__(
        self, model: Any, text_config: Any, probe: AttentionProbe, *, vocab_size: int, context: int
    ) -> None:
        body = model.get_decoder()  # of a vision model, the part for text
        shape = probe.layers[0]
        self.layers = probe.layers
        self.states: Mapping[StateName, StateShape] = {}
        self.vocab_size = vocab_size
        self.context = context
        self.num_embeddings: int = body.embed_tokens.num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None
        self._dtype = activation_dtype(self.device, self.dtype)  # of everything between linear layers
        self._heads: int = text_config.num_attention_heads
        self._kv_heads = shape.kv_heads
        self._head_dim = shape.key_dim
        self._eps = torch.tensor(text_config.rms_norm_eps, device=self.device)
        self._embed = body.embed_tokens.weight
        self._rotary = body.rotary_emb
        self._sign = torch.ones(self._head_dim, dtype=self._dtype, device=self.device)
        self._sign[: self._head_dim // 2] = -1
        self._layers = [self._fuse(layer, probe.params[i]) for i, layer in enumerate(body.layers)]
        self._norm = body.norm.weight.float()
        self._lm_head = pack_linear([model.lm_head])

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        embedded = embedding(tokens, self._embed).to(self._dtype)
        x = insert_image_embeddings(embedded, image_embeddings)
        rotation = self._rotation(x, positions)
        for index, layer in enumerate(self._layers):
            x = self._attend(index, layer, x, rotation)
            x = self._feed_forward(layer, x)
        if len(logits_indices) != len(x):
            x = x[logits_indices]
        return self._lm_head(self._rms_norm(x, self._norm)).float()

    @property
    def linears(self) -> list[PackedLinear]:
        """The linear layers of a step, in the order in which they run."""
        layers = ((layer.qkv, layer.out, layer.gate_up, layer.down) for layer in self._layers)
        return [*chain.from_iterable(layers), self._lm_head]

    def _rotation(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, (tokens, 1, head_dim) each, as transformers computes them.

        The sines of the first half are negated, so that a rotation needs one roll and no negation.
        """
        cos, sin = self._rotary(x, positions[None])
        return cos[0].unsqueeze(1), (sin[0] * self._sign).unsqueeze(1)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the root mean square norm over the last dimension (Zhang and Sennrich 2019).

        Computed in float32, as `weight` is, by fewer operations than torch's own consists of.
        """
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(weight).to(self._dtype)

    def _attend(self, index: int, layer: FusedLayer, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        # (tokens, heads of query, key and value in this order, head_dim)
        qkv = layer.qkv(self._rms_norm(x, layer.norm)).view(len(x), -1, self._head_dim)
        num_rotated = self._heads + self._kv_heads
        qk, value = qkv[:, :num_rotated], qkv[:, num_rotated:].to(self.dtype)
        if layer.qk_norm is not None:
            qk = self._rms_norm(qk, layer.qk_norm)
        cos, sin = rotation
        qk = torch.addcmul(qk * cos, qk.roll(self._head_dim // 2, -1), sin).to(self.dtype)
        out = attend(index, qk[:, : self._heads], qk[:, self._heads :], value, params=layer.params)
        return layer.out(out.reshape(len(x), -1).to(self._dtype)).add_(x)

    def _feed_forward(self, layer: FusedLayer, x: Tensor) -> Tensor:
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

    def _qk_norm(self, attention: Any) -> Tensor | None:
        if not hasattr(attention, "q_norm"):
            return None
        query = attention.q_norm.weight.expand(self._heads, -1)
        return torch.cat([query, attention.k_norm.weight.expand(self._kv_heads, -1)]).float()


def insert_image_embeddings(embedded: Tensor, image_embeddings: ImageEmbeddings) -> Tensor:
    """Return `embedded`, (tokens, hidden), with image embeddings in place of their placeholders'."""
    for rows, embeddings in image_embeddings:
        embedded = embedded.index_copy(0, rows, embeddings.to(embedded.dtype))
    return embedded


def fuse_decoder(
    model: Any, text_config: Any, probe: AttentionProbe, *, vocab_size: int, context: int
) -> FusedDecoder | None:
    """Return a fused decoder with the weights of `model`, which loses them; None if the shape is another."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    has_the_shape = (
        text_config.model_type in FAMILIES
        and text_config.hidden_act == "silu"
        and rope.get("rope_type", "default") in _STATIC_ROPES
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and len(set(probe.layers.values())) == 1
        and all(params.is_plain for params in probe.params.values())
    )
    if not has_the_shape:
        return None
    with torch.inference_mode():
        return FusedDecoder(model, text_config, probe, vocab_size=vocab_size, context=context)
