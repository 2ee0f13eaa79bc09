"""What follows the hidden states of an embedding model: pooling, then layers of sentence-transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neuron.models.checkpoint import WEIGHTS, model_broken
from neuron.models.sentence_modules import Dense, Embedding, LayerNorm, Normalize, PoolingMode, Tail


class SentenceHead:
    """Makes a vector of the hidden states of a text. Its numbers are float32, whatever the model's."""

    def __init__(self, embedding: Embedding, device: torch.device) -> None:
        """Raises ModelLoadError naming the file of a layer that is missing or of another shape."""
        self._pooling = embedding.pooling
        self._layers = [_layer(tail).to(device).eval() for tail in embedding.tail]

    def __call__(self, texts: Sequence[Tensor], num_prompt: int) -> Tensor:
        """Return (texts, dim) for hidden states of (tokens, dim) each, the first of which are a prompt's."""
        skipped = 0 if self._pooling.include_prompt else num_prompt
        vectors = torch.stack([self._pooled(hidden, min(skipped, len(hidden) - 1)) for hidden in texts])
        for layer in self._layers:
            vectors = layer(vectors)
        return vectors

    def _pooled(self, hidden: Tensor, skipped: int) -> Tensor:
        hidden = hidden.float()
        return torch.cat([_pool(hidden, hidden[skipped:], mode) for mode in self._pooling.modes])


def _pool(hidden: Tensor, counted: Tensor, mode: PoolingMode) -> Tensor:
    match mode:
        case "cls":
            return hidden[0]
        case "lasttoken":
            return hidden[-1]
        case "max":
            return counted.amax(dim=0)
        case "mean":
            return counted.mean(dim=0)
        case "mean_sqrt_len_tokens":
            return counted.sum(dim=0).mul(1 / math.sqrt(len(counted)))
        case "weightedmean":  # by position, from 1 (Muennighoff 2022)
            first = len(hidden) - len(counted) + 1
            weights = torch.arange(first, len(hidden) + 1, device=hidden.device, dtype=hidden.dtype)
            total: Tensor = (counted * weights[:, None]).sum(dim=0)
            return total / weights.sum()


class _Unit(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        return vectors / lengths.clamp(min=1e-12)


class _Dense(nn.Module):
    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(dense.inputs, dense.outputs, bias=dense.bias)
        if dense.residual and dense.inputs != dense.outputs:
            self.residual: nn.Module = nn.Linear(dense.inputs, dense.outputs, bias=False)
        else:
            self.residual = nn.Identity()
        self._is_residual = dense.residual
        self._activation: nn.Module = getattr(nn, dense.activation)()

    def forward(self, vectors: Tensor) -> Tensor:
        made: Tensor = self._activation(self.linear(vectors))
        return made + self.residual(vectors) if self._is_residual else made


class _Norm(nn.Module):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        normed: Tensor = self.norm(vectors)
        return normed


def _layer(tail: Tail) -> nn.Module:
    if isinstance(tail, Normalize):
        return _Unit()
    layer: nn.Module = _Dense(tail) if isinstance(tail, Dense) else _Norm(tail.dimension)
    return _filled(layer, tail)


def _filled(layer: nn.Module, tail: Dense | LayerNorm) -> nn.Module:
    file = tail.folder / WEIGHTS
    if not file.is_file():
        raise model_broken(file, "is missing, but modules.json names its folder")
    try:
        layer.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    except Exception as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise model_broken(file, f"does not fit the config.json beside it: {cause}") from error
    return layer.requires_grad_(requires_grad=False)
