"""Models that score how well a text answers another: cross-encoders, and decoders that say yes or no."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from neuron.models.architecture import model_class, model_unsupported, read_config
from neuron.models.checkpoint import Checkpoint
from neuron.models.embedder import Embedder, input_length
from neuron.models.sentence_modules import Ranking
from neuron.models.text_encoder import TextEncoder
from neuron.models.weights import LoadOptions, load_weights

_TOKENIZER = "tokenizer_config.json"
_TYPES = "token_type_ids"
_TRIED = 4  # tokens
Scores = Callable[[Sequence[Tensor]], Tensor]  # (texts, 1) of hidden states, (tokens, dim) each


def ranker_class(ranking: Ranking, checkpoint: Checkpoint, config: Any) -> Any:
    """Return transformers' class of a model that ranks. Raises ModelLoadError."""
    says = ranking.true_token is not None
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if says else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    found = model_class(mapping, config)
    if found is None:
        cause = f"transformers has no class of {config.model_type} that ranks"
        raise model_unsupported(checkpoint.config_file, cause)
    return found


def load_ranker(checkpoint: Checkpoint, ranking: Ranking, options: LoadOptions) -> Embedder:
    """Return the ranking model of a checkpoint. Raises ModelLoadError."""
    config = read_config(checkpoint)
    cls = ranker_class(ranking, checkpoint, config)
    model = load_weights(checkpoint, config, cls, options, attention=None)
    activation: nn.Module = getattr(nn, ranking.activation)()
    try:
        body = model.base_model
        scores = _scores(model, ranking)
        encoder = TextEncoder(body, tells_types=_tells_types(checkpoint.path))
        vocab_size = body.get_input_embeddings().num_embeddings

        def head(texts: Sequence[Tensor], _: int) -> Tensor:
            scored: Tensor = activation(scores(texts).float())
            return scored

        context = input_length(config, ranking.max_tokens)
        return Embedder(encoder, head, vocab_size=vocab_size, context=context, ranks=True)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        cause = f"{config.model_type} ranks no texts: {error!r}"
        raise model_unsupported(checkpoint.config_file, cause) from error


def _tells_types(path: Path) -> bool:
    """Return whether a directory's tokenizer tells the tokens of two texts apart, which its class decides."""
    try:
        config = json.loads((path / _TOKENIZER).read_bytes())
    except (OSError, ValueError):
        return True
    names = config.get("model_input_names")
    if not isinstance(names, list):
        cls = getattr(transformers, str(config.get("tokenizer_class")), None)
        names = getattr(cls, "model_input_names", [_TYPES])
    return _TYPES in names


def _scores(model: Any, ranking: Ranking) -> Scores:
    if ranking.true_token is not None:
        return _said(model, ranking.true_token, ranking.false_token)
    if isinstance(getattr(model, "score", None), nn.Linear):  # of decoders: it reads the last token
        return lambda texts: model.score(torch.stack([hidden[-1] for hidden in texts]))
    return _by_head(model)


def _said(model: Any, true: int, false: int | None) -> Scores:
    """Return how much likelier than another a token is, or its logit."""
    head = model.get_output_embeddings()

    def scores(texts: Sequence[Tensor]) -> Tensor:
        logits: Tensor = head(torch.stack([hidden[-1] for hidden in texts]))
        return (logits[:, true] - (0 if false is None else logits[:, false]))[:, None]

    return scores


def _by_head(model: Any) -> Scores:
    """Return the scores of a class's own head, which runs alone: hidden states take its body's place."""
    ones = torch.ones(1, _TRIED, dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        whole = model(input_ids=ones, attention_mask=ones).logits
        hidden = model.base_model(input_ids=ones, attention_mask=ones).last_hidden_state
    given = _GivenStates(model.base_model)
    setattr(model, model.base_model_prefix, given)

    def scores(texts: Sequence[Tensor]) -> Tensor:
        rows = []
        for hidden in texts:
            given.hidden = hidden[None]
            ones = torch.ones(1, len(hidden), dtype=torch.int64, device=hidden.device)
            rows.append(model(input_ids=ones, attention_mask=ones).logits)
        given.hidden = None
        return torch.cat(rows)

    with torch.inference_mode():
        if not torch.allclose(scores([hidden[0]]), whole, rtol=0.01, atol=0.01):
            raise ValueError("its head needs more than hidden states")
    return scores


class _GivenStates(nn.Module):
    """A body that has come to its hidden states already."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        pooler, activation = getattr(body, "pooler", None), getattr(body, "pooler_activation", None)
        self._pooler = pooler
        self._activation = activation  # of a pooler that is a linear layer only
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        assert self.hidden is not None
        pooled = None
        if self._activation and self._pooler:
            pooled = self._activation(self._pooler(self.hidden[:, 0]))
        elif self._pooler:
            pooled = self._pooler(self.hidden)
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden, pooler_output=pooled)
