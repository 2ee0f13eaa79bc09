"""Our states where transformers' layers expect a cache, and which of a model's modules keep any.

Recurrent layers, state space layers and short convolutions read what they keep of a sequence from a cache
object, and write it back. While a model is probed, transformers' own cache shows the states' sizes, and whose
they are. Afterwards `SlotStates` takes its place: a module that keeps states is run for each group of chunks
with as many tokens, all others once for the flat batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from neuron.device.selection import IndexGroup
from neuron.device.state_pool import StateGroup, StateName, StateShape, state_groups

# transformers' types of layers that keep states.
STATE_LAYERS = frozenset({"conv", "hybrid", "hybrid_sliding", "linear_attention"})

_CACHE_ARGUMENTS = ("cache_params", "past_key_values")


def layer_types(text_config: Any) -> list[str]:
    """Return transformers' name of each layer's kind; empty where a configuration names none."""
    return list(getattr(text_config, "layer_types", None) or ())


def keeps_states(text_config: Any) -> bool:
    return not STATE_LAYERS.isdisjoint(layer_types(text_config))


def cache_argument(model: Any) -> str:
    """Return the name by which a model takes its cache."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in parameters), _CACHE_ARGUMENTS[-1])


def outermost(modules: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """Return modules without those that are part of another of them: that one runs them."""
    wholes = list(modules)
    parts = {part for whole in wholes for part in whole.modules() if part is not whole}
    return [module for module in wholes if module not in parts]


class StateProbe(DynamicCache):
    """transformers' cache of one short sequence, which notes the states and the modules that keep them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.shapes: dict[StateName, StateShape] = {}
        self.modules: dict[torch.nn.Module, None] = {}
        self._running: list[torch.nn.Module] = []

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Know inside the block which module of `model` runs."""

        def enter(module: torch.nn.Module, _: object) -> None:
            self._running.append(module)

        def leave(*_: object) -> None:
            self._running.pop()

        hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
        hooks += [module.register_forward_hook(leave) for module in model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **how: Any
    ) -> Tensor:
        kept = how.get("conv_kernel_size") or conv_states.shape[-1]
        self._note(StateName(layer_idx, "conv", state_idx), (*conv_states.shape[1:-1], kept), conv_states)
        updated: Tensor = super().update_conv_state(conv_states, layer_idx, state_idx, **how)
        return updated

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **how: Any
    ) -> Tensor:
        self.set_linear_cache(layer_idx, recurrent_states, state_idx)
        updated: Tensor = super().update_recurrent_state(recurrent_states, layer_idx, state_idx, **how)
        return updated

    # MiniMax has its own names.
    def get_linear_cache(self, _: int) -> None:
        return None

    def set_linear_cache(self, layer_idx: int, states: Tensor, state_idx: int = 0) -> None:
        self._note(StateName(layer_idx, "recurrent", state_idx), states.shape[1:], states)

    def _note(self, name: StateName, dims: Sequence[int], states: Tensor) -> None:
        self.shapes[name] = StateShape(tuple(dims), states.dtype)
        self.modules[self._running[-1]] = None


class SlotStates:
    """A cache for transformers' layers whose states are those of a step's slots.

    Keys and values pass through it: the attention function stores them.
    """

    def __init__(self) -> None:
        self._group: StateGroup | None = None
        self._changed: dict[StateName, Tensor] = {}

    @contextmanager
    def using(self, group: StateGroup) -> Iterator[None]:
        """Have the states of `group` inside the block, and store what became of them."""
        self._group, self._changed = group, {}
        yield
        for name, states in self._changed.items():
            group.write(name, states)
        self._group = None

    @property
    def _current(self) -> StateGroup:
        assert self._group, "only modules that `split` has changed use states"
        return self._group

    def _read(self, name: StateName) -> Tensor | None:
        """Return the states, which may be changed in place; None at the beginning of a sequence."""
        group = self._current
        if name not in self._changed and not group.is_fresh:
            self._changed[name] = group.pool.read(name, group.slots)
        return self._changed.get(name)

    # What follows has the names and signatures of transformers' `Cache`.

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._read(StateName(layer_idx, "conv", state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._read(StateName(layer_idx, "recurrent", state_idx))

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Return what was kept and `conv_states`, (rows, channels, kept + width), and keep their end."""
        name = StateName(layer_idx, "conv", state_idx)
        kept = conv_kernel_size or conv_states.shape[-1]
        before = self._read(name)
        missing = max(0, kept - conv_states.shape[-1])
        whole = pad(conv_states, (missing, 0)) if before is None else torch.cat([before, conv_states], dim=-1)
        self._changed[name] = whole[..., -kept:]
        return whole

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> Tensor:
        self._changed[StateName(layer_idx, "recurrent", state_idx)] = recurrent_states
        return recurrent_states

    def get_linear_cache(self, layer_idx: int) -> Tensor | None:
        return self.get_recurrent_state(layer_idx)

    def set_linear_cache(self, layer_idx: int, states: Tensor) -> None:
        self.update_recurrent_state(states, layer_idx)

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        return not self._current.is_fresh

    def is_recording_past(self, _: int) -> bool:
        return False

    # Positions are told, and masks are not transformers': these only have to be there.

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def get_query_offset(self, *_: Any) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, *_: Any) -> tuple[int, int]:
        return query_length, 0


class StatefulModule:
    """The forward of a module that keeps states, run group by group.

    Continues a sequence by all tokens of a chunk at once, or by one after another if `is_stepwise`: some
    layers of transformers look at their state only if there is one token.
    """

    def __init__(self, module: Any) -> None:
        self.is_stepwise = False
        self._forward: Callable[..., Any] = module.forward
        module.forward = self._run

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        cache = next(value for value in (*args, *kwargs.values()) if isinstance(value, SlotStates))
        groups = state_groups()
        flat: list[Any] = []
        for group in groups:
            parts: list[Any] = []
            with cache.using(group):
                for columns in self._columns(group):
                    cut = Cut(group, columns, groups[-1].end)
                    parts.append(self._forward(*cut(args), **cut(kwargs)))
            flat.append(_joined(parts, dim=1))
        return _joined([_flattened(part) for part in flat], dim=1)

    def _columns(self, group: StateGroup) -> list[slice]:
        """Return which of a group's columns run at once."""
        if group.is_fresh or not self.is_stepwise:
            return [slice(None)]
        return [slice(column, column + 1) for column in range(group.width)]


def _joined(parts: Sequence[Any], dim: int) -> Any:
    """Return the tensors of each place among results of one kind, concatenated."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tuple):
        return tuple(_joined(place, dim) for place in zip(*parts, strict=True))
    return torch.cat(list(parts), dim=dim) if isinstance(parts[0], Tensor) else parts[0]


def _flattened(value: Any) -> Any:
    """Return the result of a group, (rows, width, …), as part of the flat batch's, (1, tokens, …)."""
    if isinstance(value, tuple):
        return tuple(map(_flattened, value))
    return value.reshape(1, -1, *value.shape[2:]) if isinstance(value, Tensor) else value


class Cut:
    """Takes a group's part, (rows, columns, …), of each tensor of the flat batch's shape, (1, tokens, …)."""

    def __init__(self, group: StateGroup | IndexGroup, columns: slice, num_tokens: int) -> None:
        self._group = group
        self._columns = columns
        self._shape = (1, num_tokens)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape[:2] == self._shape:
            part = value[0, self._group.start : self._group.end]
            return part.view(self._group.rows, self._group.width, *value.shape[2:])[:, self._columns]
        if isinstance(value, tuple | list):
            return type(value)(map(self, value))
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return value
