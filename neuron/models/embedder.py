"""Models that make vectors of texts, encoders and decoders alike: hidden states, then a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from neuron.models.architecture import context_length, model_class, model_unsupported, read_config
from neuron.models.checkpoint import Checkpoint
from neuron.models.sentence_head import SentenceHead
from neuron.models.sentence_modules import Embedding
from neuron.models.text_encoder import TextEncoder
from neuron.models.weights import LoadOptions, load_weights
from neuron.step import CacheShape, EmbeddingPlan, EncodedText, PoisonedError

# The first positions are padding's.
_OFFSET_POSITIONS = {
    *("camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
}

Head = Callable[[Sequence[Tensor], int], Tensor]


class Embedder:
    """Runs the inputs of one step. For the device's thread."""

    def __init__(
        self, encoder: TextEncoder, head: Head, *, vocab_size: int, context: int, ranks: bool = False
    ) -> None:
        """The vectors of a model that `ranks` are scores, of one number each."""
        self._encoder = encoder
        self._head = head
        self.vocab_size = vocab_size
        self.ranks = ranks
        self.shape = CacheShape(num_pages=0, page_size=1, num_slots=0, context=context)
        self.pads = encoder.pads
        self.device = encoder.device
        with torch.inference_mode():
            self.dimensions = self._vectors([EncodedText((2,))]).shape[1]

    @torch.inference_mode()
    def run(self, plan: EmbeddingPlan) -> list[bytes]:
        """Return a vector of little-endian float32 for each input.

        Raises PoisonedError when the device is unusable from now on.
        """
        try:
            vectors = self._vectors(plan.inputs).float().cpu()
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        if bool(vectors.isnan().any()):
            raise PoisonedError("the model's results are not numbers")
        return [vector.numpy().astype("<f4").tobytes() for vector in vectors]

    def _vectors(self, texts: Sequence[EncodedText]) -> Tensor:
        num_prompt = texts[0].num_prompt
        if any(text.num_prompt != num_prompt for text in texts):  # of several requests
            return torch.cat([self._vectors([text]) for text in texts])
        return self._head(self._encoder.encode(texts), num_prompt)


def embedder_class(checkpoint: Checkpoint, config: Any) -> Any:
    """Return transformers' class of a model without its head. Raises ModelLoadError."""
    found = model_class(MODEL_MAPPING, config)
    if found is None:
        cause = f"{config.model_type} has no hidden states to pool"
        raise model_unsupported(checkpoint.config_file, cause)
    return found


def load_embedder(checkpoint: Checkpoint, embedding: Embedding, options: LoadOptions) -> Embedder:
    """Return the embedding model of a checkpoint. Raises ModelLoadError."""
    config = read_config(checkpoint)
    head = SentenceHead(embedding, options.device)
    found = embedder_class(checkpoint, config)
    model = load_weights(checkpoint, config, found, options, attention=None, is_headless=True)
    context = input_length(config, embedding.max_tokens)
    try:
        vocab_size = model.get_input_embeddings().num_embeddings
        return Embedder(TextEncoder(model), head, vocab_size=vocab_size, context=context)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        cause = f"{config.model_type} makes no hidden states of text alone: {error!r}"
        raise model_unsupported(checkpoint.config_file, cause) from error


def input_length(config: Any, max_tokens: int | None) -> int:
    """Return the most tokens that an input may have."""
    context = context_length(config.get_text_config())
    if config.model_type in _OFFSET_POSITIONS:
        context -= 2
    return min(context, max_tokens) if max_tokens else context
