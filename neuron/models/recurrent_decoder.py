"""Decoders of classes that take their whole state as one argument and return it as one result.

What the state is made of is the class's own affair: its tensors, one row for each sequence, lie in the slots.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from neuron.device.model import ImageEmbeddings
from neuron.device.sequences import step_sequences
from neuron.device.state_pool import StateGroup, StateName, StateShape, split_groups, state_groups
from neuron.models.architecture import context_length
from neuron.models.attention_interface import AttentionProbe
from neuron.models.checkpoint import Checkpoint
from neuron.models.probe import Probe, check_continuation, ordinary_tokens, refusing
from neuron.models.sequential_decoder import SequentialDecoder
from neuron.models.state_interface import StateProbe

_ARGUMENTS = ("state", "cache_params")


def state_argument(model: Any) -> str | None:
    """Return the name by which a class takes its whole state; None for one that does not."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in _ARGUMENTS if name in taken), None)


class RecurrentDecoder(SequentialDecoder):
    """A `neuron.device.model.DecoderModel` that runs transformers' own code, one sequence after another."""

    def __init__(self, model: Any, argument: str, state: Any, *, vocab_size: int, context: int) -> None:
        states = {
            StateName(0, "recurrent", number): StateShape(tuple(tensor.shape[1:]), tensor.dtype)
            for number, tensor in enumerate(_tensors(state))
        }
        super().__init__(model, layers={}, states=states, vocab_size=vocab_size, context=context)
        self._argument = argument
        self._example = state  # of one sequence, for its structure

    def __call__(
        self, tokens: Tensor, positions: Tensor, logits_indices: Tensor, _: ImageEmbeddings = ()
    ) -> Tensor:
        chunks = zip(step_sequences(), split_groups(state_groups()), strict=True)
        logits = [self._run(group, tokens[sequence.rows]) for sequence, group in chunks]
        return torch.cat(logits)[logits_indices].float()

    def _run(self, group: StateGroup, tokens: Tensor) -> Tensor:
        """Return the logits of one chunk's tokens, (tokens, vocab), and move its sequence's state on.

        RWKV mixes up the sequences of a batch, so chunks run one after another.
        """
        state = None if group.is_fresh else self._read(group)
        out = self._model(**{"input_ids": tokens[None], self._argument: state}, use_cache=True)
        for name, tensor in zip(self.states, _tensors(out[self._argument]), strict=True):
            group.write(name, tensor)
        logits: Tensor = out.logits[0]
        return logits

    def _read(self, group: StateGroup) -> Any:
        stored = (group.pool.read(name, group.slots) for name in self.states)
        return _replaced(self._example, lambda _: next(stored))


def load_recurrent(checkpoint: Checkpoint, model: Any, text_config: Any, argument: str) -> RecurrentDecoder:
    """Return the decoder of a model that takes its state as `argument`, proven. Raises ModelLoadError."""
    with refusing(checkpoint.path), torch.inference_mode():
        tokens = ordinary_tokens(model)
        out = model(input_ids=tokens[None], use_cache=True)
        logits, state = out.logits[0, -1], out[argument]
        decoder = RecurrentDecoder(
            model, argument, state, vocab_size=len(logits), context=context_length(text_config)
        )
    states = StateProbe(model.config)
    states.shapes = dict(decoder.states)
    probe = Probe(
        AttentionProbe(),
        states,
        tuple(tokens.tolist()),
        logits,
        first_position=0,
        has_silent_layers=True,
    )
    check_continuation(checkpoint, decoder, probe, ())
    return decoder


def _tensors(state: Any) -> Iterator[Tensor]:
    """Return the tensors of a state, in an order of its own."""
    found: list[Tensor] = []
    _replaced(state, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return iter(found)


def _replaced(value: Any, replacement: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a state with other tensors: those of floats, which have a row for each sequence."""
    if isinstance(value, Tensor):
        return replacement(value) if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, replacement) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, replacement) for key, item in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, type | PreTrainedConfig):
        copied = copy.copy(value)
        vars(copied).update(_replaced(vars(value), replacement))
        return copied
    return value
