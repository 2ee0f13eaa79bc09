"""Which tensors of a GGUF file make which parameter of transformers' model, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from neuron.models.gguf import arrangements
from neuron.models.gguf.arrangements import Arrange
from neuron.models.gguf.config import EMBEDDING, HEAD
from neuron.models.gguf.container import StoredTensor
from neuron.models.gguf.families import Family
from neuron.models.gguf.rotation import TENSORS as ROTATION
from neuron.models.gguf.rotation import Tensors

_IN_LAYER = re.compile(r"blk\.(\d+)\.([\w.]+?)\.(weight|bias)")
_ONE_EXPERT = re.compile(r"ffn_(gate|up|down)\.(\d+)")  # of files made before the experts were joined
_ONE_EXPERTS_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}
_LAST_NORMS = ("output_norm.weight", "token_embd_norm.weight")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, the tensors that make it, and how."""

    name: str
    sources: tuple[StoredTensor, ...]
    arrange: Arrange


def parameters(family: Family, tensors: Tensors, config: dict[str, Any]) -> Iterator[Parameter]:
    """Yield the parameters that a file's tensors make; one without a place keeps its name."""
    namer = _Namer(family, tensors, config)
    for name in tensors:
        if name not in ROTATION:
            yield from namer.of(name)


class _Namer:
    def __init__(self, family: Family, tensors: Tensors, config: dict[str, Any]) -> None:
        self._family = family
        self._tensors = tensors
        self._heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        self._head_dim = config["head_dim"]

    def of(self, name: str) -> Iterator[Parameter]:
        """Yield the parameters that a tensor makes, or begins."""
        if found := _IN_LAYER.fullmatch(name):
            layer, stem, suffix = found.groups()
            yield from self._in_layer(name, f"model.layers.{layer}.", stem, suffix)
        elif name == EMBEDDING:
            yield self._parameter("model.embed_tokens.weight", name)
        elif name == HEAD:
            yield self._parameter("lm_head.weight", name)
        elif name in _LAST_NORMS:
            yield self._parameter(f"model.{self._family.last_norm}.weight", name, self._of_norm())
        else:
            yield self._parameter(name, name)

    def _in_layer(self, name: str, layer: str, stem: str, suffix: str) -> Iterator[Parameter]:
        family, module = self._family, self._family.modules.get(stem)
        if stem.endswith("_exps"):
            yield from self._experts(name, layer, stem, suffix)
        elif found := _ONE_EXPERT.fullmatch(stem):
            part, number = found.groups()
            # as transformers' own checkpoints have them, which it joins
            place = f"{layer}block_sparse_moe.experts.{number}.{_ONE_EXPERTS_NAMES[part]}.{suffix}"
            yield self._parameter(place, name)
        elif stem == "attn_qkv" and module is None:
            yield from self._joined_attention(name, layer, suffix)
        elif module is None:
            yield self._parameter(name, name)
        elif stem == "attn_sinks":
            yield self._parameter(layer + module, name)
        else:
            flattened = stem in family.flattened
            yield self._parameter(f"{layer}{module}.{suffix}", name, self._arrange(stem, flattened=flattened))

    def _arrange(self, stem: str, *, flattened: bool = False) -> Arrange:
        if self._family.is_permuted and stem in self._heads:
            return arrangements.unpermuted_heads(self._heads[stem])
        if stem.endswith("norm"):
            return self._of_norm()
        if flattened:
            return arrangements.as_filters if stem.endswith("conv") else arrangements.as_row
        return arrangements.as_stored

    def _of_norm(self) -> Arrange:
        return arrangements.less_one if self._family.adds_one else arrangements.as_stored

    def _joined_attention(self, name: str, layer: str, suffix: str) -> Iterator[Parameter]:
        """Yield queries, keys and values, which some files hold in one tensor, one below the other."""
        start = 0
        for stem in ("attn_q", "attn_k", "attn_v"):
            end = start + self._heads.get(stem, self._heads["attn_k"]) * self._head_dim
            rows = partial(arrangements.rows_between, start, end, self._arrange(stem))
            yield self._parameter(f"{layer}{self._family.modules[stem]}.{suffix}", name, rows)
            start = end

    def _experts(self, name: str, layer: str, stem: str, suffix: str) -> Iterator[Parameter]:
        """Yield the parameter of all experts that a tensor begins; one that ends it yields none."""
        end = "_bias" if suffix == "bias" else ""
        place = f"{layer}{self._family.experts}."
        partner = (
            name.replace("_gate_exps", "_up_exps") if "_gate_" in stem else name.replace("_up_", "_gate_")
        )
        if stem == "ffn_down_exps":
            arrange = arrangements.transposed if self._is_turned(suffix) else arrangements.as_stored
            yield self._parameter(f"{place}down_proj{end}", name, arrange)
        elif stem == "ffn_gate_up_exps":
            yield self._parameter(f"{place}gate_up_proj{end}", name, self._of_gates(suffix, count=1))
        elif stem not in {"ffn_gate_exps", "ffn_up_exps"} or partner not in self._tensors:
            yield self._parameter(name, name)
        elif stem == "ffn_gate_exps":
            sources = self._tensors[name], self._tensors[partner]
            yield Parameter(f"{place}gate_up_proj{end}", sources, self._of_gates(suffix, count=2))

    def _is_turned(self, suffix: str) -> bool:
        """Return whether a tensor's matrices stand transposed in transformers' experts."""
        return self._family.interleaves_experts and suffix == "weight"

    def _of_gates(self, suffix: str, *, count: int) -> Arrange:
        if self._is_turned(suffix):
            return arrangements.interleaved_transposed
        if self._family.interleaves_experts:
            return arrangements.interleaved
        return arrangements.gate_and_up if count > 1 else arrangements.as_stored

    def _parameter(self, place: str, name: str, arrange: Arrange = arrangements.as_stored) -> Parameter:
        return Parameter(place, (self._tensors[name],), arrange)
