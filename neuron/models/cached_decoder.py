"""Decoders whose layers attend themselves, over a cache of transformers' kind.

Older classes do not use the attention interface, and some newer ones bring masks or biases of their own. They
all ask a cache object for the keys and values of the whole sequence. `SequenceCache` keeps them in our pages,
and the model reads the chunks of a step one after another.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from neuron.device.kv_cache import KVShape
from neuron.device.model import ImageEmbeddings
from neuron.device.sequences import CachedSequence, step_sequences
from neuron.device.state_pool import split_groups, state_groups, use_state_groups
from neuron.models.architecture import context_length
from neuron.models.attention_interface import AttentionProbe
from neuron.models.attention_masks import UnsupportedAttentionError
from neuron.models.checkpoint import Checkpoint
from neuron.models.probe import Probe, check_continuation, ordinary_tokens, refusing
from neuron.models.sequential_decoder import SequentialDecoder
from neuron.models.state_interface import SlotStates, StatefulModule, StateProbe, cache_argument


class CacheProbe(StateProbe):
    """transformers' cache of one short sequence, which notes what each layer stores in it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.kv_shapes: dict[int, KVShape] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        if layer_idx in self.kv_shapes:
            raise UnsupportedAttentionError(f"layer {layer_idx} stores keys more than once")
        self.kv_shapes[layer_idx] = KVShape(key_states.shape[1], key_states.shape[-1], value_states.shape[-1])
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def probe_cached(checkpoint: Checkpoint, model: Any, text_config: Any) -> Probe:
    """Return what a model stores that attends itself. Raises ModelLoadError."""
    with refusing(checkpoint.path):
        tokens = ordinary_tokens(model)
        states = CacheProbe(model.config)
        with torch.inference_mode(), states.watching(model):
            logits = CachedInputs(model).run(states, tokens, [len(tokens) - 1])
    attention = AttentionProbe()
    attention.layers = states.kv_shapes
    return Probe(
        attention,
        states if states.shapes else None,
        tuple(tokens.tolist()),
        logits[0],
        first_position=0,
        has_silent_layers=True,
    )


class SequenceCache(SlotStates):
    """A cache for transformers' layers that holds one sequence of a step: its keys and values, its states."""

    is_compileable = False

    def __init__(self, sequence: CachedSequence) -> None:
        super().__init__()
        self._sequence = sequence

    # What follows has the names and signatures of transformers' `Cache`.

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        return self._sequence.extend(layer_idx, key_states, value_states)

    def get_seq_length(self, *_: Any) -> int:
        return self._sequence.start

    def get_query_offset(self, *_: Any) -> int:
        return self._sequence.start

    def get_mask_sizes(self, query_length: int, *_: Any) -> tuple[int, int]:
        return self._sequence.start + query_length, 0


class CachedDecoder(SequentialDecoder):
    """A `neuron.device.model.DecoderModel` that runs transformers' own code, one sequence after another."""

    def __init__(self, model: Any, probe: Probe, *, context: int) -> None:
        super().__init__(
            model,
            layers=probe.attention.layers,
            states=probe.states.shapes if probe.states else {},
            vocab_size=probe.vocab_size,
            context=context,
        )
        self._inputs = CachedInputs(model)

    def __call__(
        self, tokens: Tensor, positions: Tensor, logits_indices: Tensor, _: ImageEmbeddings = ()
    ) -> Tensor:
        wanted = logits_indices.tolist()
        groups = split_groups(state_groups()) if self.states else repeat(None)
        parts: list[Tensor] = []
        for sequence, group in zip(step_sequences(), groups, strict=False):
            rows = sequence.rows
            kept = sequence.chosen(wanted)
            cache = SequenceCache(sequence)
            with use_state_groups([group]) if group else nullcontext():
                parts.append(self._inputs.run(cache, tokens[rows], kept))
        return torch.cat(parts).float()


class CachedInputs:
    """Calls a model with the arguments that its class takes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache_argument = cache_argument(model)
        self._taken = inspect.signature(model.forward).parameters.keys()

    def run(self, cache: Any, tokens: Tensor, kept: Sequence[int]) -> Tensor:
        """Return the logits of the `kept` of some tokens, (kept, vocab), which follow what `cache` holds.

        Positions are not told: a class counts on from what its cache holds.
        """
        inputs = {"input_ids": tokens[None], self._cache_argument: cache, "use_cache": True}
        rows = torch.tensor(kept, dtype=torch.int64, device=tokens.device)
        if "logits_to_keep" in self._taken:
            logits: Tensor = self._model(**inputs, logits_to_keep=rows).logits[0]
        else:
            logits = self._model(**inputs).logits[0, rows]
        return logits


def load_cached(checkpoint: Checkpoint, model: Any, text_config: Any) -> CachedDecoder:
    """Return the decoder of a model that attends itself, proven. Raises ModelLoadError."""
    probe = probe_cached(checkpoint, model, text_config)
    decoder = CachedDecoder(model, probe, context=context_length(text_config))
    modules = [StatefulModule(module) for module in probe.states.modules] if probe.states else []
    check_continuation(checkpoint, decoder, probe, modules)
    return decoder
