"""Sizes as a configuration tells them, by the names that most families use. Imports no torch.

Those that a configuration keeps under other names are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# transformers' types of layers that do not attend, and of those with an indexer. Compressors have one, too.
SILENT_LAYERS = frozenset({"conv", "linear_attention", "mlp", "moe"})
INDEXED_LAYERS = frozenset(
    {
        "compressed_sparse_attention",
        "deepseek_sparse_attention",  # in transformers 5.17 the name of the next
        "heavily_compressed_attention",
        "indexed_attention",
        "minimax_m3_sparse",
    }
)


@dataclass(frozen=True, slots=True)
class ConfigSizes:
    """The sizes of the part of a configuration that is about text."""

    text: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ConfigSizes:
        return cls(config.get("text_config") or config)

    def size(self, name: str) -> int:
        value = self.text.get(name)
        return value if isinstance(value, int) else 0

    @property
    def head_dim(self) -> int:
        heads = self.size("num_attention_heads")
        return self.size("head_dim") or (self.size("hidden_size") // heads if heads else 0)

    @property
    def kv_heads(self) -> int:
        return self.size("num_key_value_heads") or self.size("num_attention_heads")

    @property
    def latent_dim(self) -> int:
        """Of the vector that all heads' keys and values are made of; 0: there is none."""
        rank = self.size("kv_lora_rank")
        return rank + self.size("qk_rope_head_dim") if rank else 0

    @property
    def num_attending(self) -> int:
        """How many layers keep keys and values."""
        kinds = self.text.get("layer_types")
        silent = [kind for kind in kinds if kind in SILENT_LAYERS] if isinstance(kinds, list) else []
        return max(0, self.size("num_hidden_layers") - len(silent))

    @property
    def index_values(self) -> int:
        """Values of a token's index keys, in all layers whose indexers choose for themselves."""
        dim, kinds, modes = (
            self.text.get(name) for name in ("index_head_dim", "layer_types", "indexer_types")
        )
        if not isinstance(dim, int) or not isinstance(count := self.text.get("num_hidden_layers"), int):
            return 0
        kinds = kinds if isinstance(kinds, list) else ["indexed_attention"] * count
        modes = modes if isinstance(modes, list) else ["full"] * count
        pairs = zip(kinds, modes, strict=False)
        choosing = [kind for kind, mode in pairs if kind in INDEXED_LAYERS and mode != "shared"]
        return dim * len(choosing)

    @property
    def cached_values(self) -> int:
        """Values that one token keeps in all layers."""
        kept = self.latent_dim or 2 * self.kv_heads * self.head_dim
        return self.num_attending * kept + self.index_values
