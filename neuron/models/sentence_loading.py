"""What runs a model that embeds or ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from neuron.models.checkpoint import Checkpoint
from neuron.models.embedder import Embedder, embedder_class, load_embedder
from neuron.models.ranker import load_ranker, ranker_class
from neuron.models.sentence_modules import Embedding, Ranking
from neuron.models.weights import LoadOptions


def class_finder(modules: Embedding | Ranking) -> Callable[[Checkpoint, Any], Any]:
    """Return what finds transformers' class of a checkpoint by its configuration."""
    return partial(ranker_class, modules) if isinstance(modules, Ranking) else embedder_class


def load_sentence_model(
    checkpoint: Checkpoint, modules: Embedding | Ranking, options: LoadOptions
) -> Embedder:
    """Return the model of a checkpoint. Raises ModelLoadError."""
    if isinstance(modules, Ranking):
        return load_ranker(checkpoint, modules, options)
    return load_embedder(checkpoint, modules, options)
