"""A parameter of transformers' modules whose numbers stay as they are stored.

transformers renames tensors, stacks experts, splits and joins projections while it loads, and its modules
multiply by their parameters. A `StoredWeight` goes through all of it with the shape of its numbers, but what
moves are rows of blocks. Where a layer multiplies by it or embeds tokens, it is asked for that; any other
operation is done with plain numbers, made for it and gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from neuron.device import row_steps
from neuron.models import private
from neuron.models.formats.block_type import BlockType
from neuron.models.formats.cpu_product import unpack_rows, unpacks
from neuron.models.formats.floats import activation_dtype
from neuron.models.matrix import Matrix, Product, are_alike, stack

_Rows = Callable[[Tensor], Tensor]  # of a tensor (…, out, any) to another of the same kind


class StoredWeight(Tensor):
    """A tensor (…, out, in), or (…, in, out) if it `is_transposed`, of a matrix without bias."""

    matrix: Matrix
    is_transposed: bool

    def __new__(cls, matrix: Matrix, dtype: torch.dtype, *, is_transposed: bool = False) -> Self:
        shape = list(matrix.shape)
        if is_transposed:
            shape[-2:] = shape[:-3:-1]
        device = matrix.blocks[0].device
        with torch.inference_mode(mode=False):  # else torch refuses what it takes for a view of it
            # One number that stands for all, so that shape, dtype and device are torch's own business.
            weight = torch.empty((), dtype=dtype, device=device).expand(shape).as_subclass(cls)
        weight.matrix, weight.is_transposed = matrix, is_transposed
        return weight

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StoredWeight({self.matrix.format.name}, {list(self.shape)}, {self.dtype})"

    def dequantize(self) -> Tensor:
        """Return the plain numbers."""
        with torch.inference_mode(mode=False):  # as in `__new__`
            weight = self.matrix.dequantize(self.dtype)
        return weight.transpose(-1, -2) if self.is_transposed else weight

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = _FUNCTIONS.get(func)
        if own is not None:
            return own(*args, **kwargs)
        return private.call_dispatched(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = _OPERATIONS.get(func)
        done = own(*args, **kwargs) if own else NotImplemented
        if done is not NotImplemented:
            return done
        if func.__name__.partition(".")[0].endswith("_") and isinstance(args[0], StoredWeight):
            raise TypeError(f"{func} would change a weight that is stored as {_formats(args)}")
        return func(*_all_dense(args), **_all_dense(kwargs))

    @cached_property
    def _product(self) -> Product:
        return self.matrix.product()

    def times(self, x: Tensor) -> Tensor:
        """Return the product with `x`, (…, in): (…, out), of its dtype."""
        rows = x.reshape(-1, x.shape[-1])
        dtype = activation_dtype(x.device, x.dtype, has_stored_weights=True)
        return self._product(rows.to(dtype)).to(x.dtype).view(*x.shape[:-1], self.matrix.num_outputs)


def dense(value: Any) -> Any:
    """Return plain numbers in place of a stored weight, and anything else as it is."""
    return value.dequantize() if isinstance(value, StoredWeight) else value


def _all_dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _all_dense(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_all_dense, value))
    return dense(value)


def _formats(args: Sequence[Any]) -> str:
    return ", ".join(arg.matrix.format.name for arg in args if isinstance(arg, StoredWeight))


# --- functions of layers ----------------------------------------------------------------------------------


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not isinstance(weight, StoredWeight) or weight.is_transposed or weight.ndim != 2:
        return linear(dense(x), dense(weight), dense(bias))
    out = weight.times(dense(x))
    return out if bias is None else out + dense(bias)


def embed(tokens: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the rows of a weight, plain or stored, that are the embeddings of tokens."""
    if not isinstance(weight, StoredWeight) or weight.is_transposed or weight.ndim != 2:
        return embedding(dense(tokens), dense(weight))
    rows = weight.matrix[tokens.flatten()].dequantize(weight.dtype)
    return rows.view(*tokens.shape, weight.matrix.in_features)


def can_look_up(weight: Tensor) -> bool:
    """Return whether `look_up` can read a weight."""
    if not isinstance(weight, StoredWeight):
        return row_steps.can_gather(weight)
    matrix = weight.matrix
    return (
        isinstance(matrix.format, BlockType)
        and not weight.is_transposed
        and unpacks(matrix.format.name, matrix, weight.dtype)
    )


def look_up(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return what `embed` does, in float32: in C alone, which checks no token."""
    if not isinstance(weight, StoredWeight):
        return row_steps.gather(weight, tokens)
    return unpack_rows(weight.matrix.format.name, weight.matrix, tokens, weight.dtype)


_FUNCTIONS: dict[Any, Callable[..., Tensor]] = {linear: _linear, embedding: embed}


# --- operations on rows -----------------------------------------------------------------------------------


def _dim(weight: StoredWeight, dim: int) -> int | None:
    """Return which dimension of the blocks one of the weight is; None for the inputs, which blocks pack."""
    dim %= weight.ndim
    if weight.is_transposed and dim >= weight.ndim - 2:
        dim = 2 * weight.ndim - 3 - dim
    return None if dim == weight.ndim - 1 else dim


def _changed(weight: StoredWeight, rows: _Rows, *, order: _Rows | None) -> StoredWeight:
    """Return a weight with other blocks; `order` is for what all rows of a matrix share, None to keep it."""
    matrix = weight.matrix
    changed = replace(
        matrix,
        blocks=tuple(map(rows, matrix.blocks)),
        factor=None if matrix.factor is None else rows(matrix.factor),
        input_order=matrix.input_order
        if order is None or matrix.input_order is None
        else order(matrix.input_order),
    )
    return StoredWeight(changed, weight.dtype, is_transposed=weight.is_transposed)


def _same(weight: StoredWeight, *_: Any, **__: Any) -> StoredWeight:
    return StoredWeight(weight.matrix, weight.dtype, is_transposed=weight.is_transposed)


def _to(weight: StoredWeight, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    dtype = dtype or weight.dtype
    if not dtype.is_floating_point:
        return NotImplemented

    def move(block: Tensor) -> Tensor:
        return block.to(device or block.device)

    changed = moved(weight, move)
    return StoredWeight(changed.matrix, dtype, is_transposed=weight.is_transposed)


def moved(weight: StoredWeight, move: Callable[[Tensor], Tensor]) -> StoredWeight:
    """Return a weight of what `move` makes of each tensor that it is stored in."""
    return _changed(weight, move, order=move)


def _narrow(weight: StoredWeight, dim: int, index: slice) -> Any:
    if (inner := _dim(weight, dim)) is None:
        return _columns(weight, index)

    def cut(block: Tensor) -> Tensor:
        return block[(*(slice(None),) * inner, index)]

    return _changed(weight, cut, order=cut if inner < weight.ndim - 2 else None)


def _columns(weight: StoredWeight, index: slice) -> Any:
    start, stop, step = index.indices(weight.matrix.in_features)
    try:
        matrix = weight.matrix.columns(start, stop) if step == 1 else None
    except ValueError:
        matrix = None
    if matrix is None:
        return NotImplemented
    return StoredWeight(matrix, weight.dtype, is_transposed=weight.is_transposed)


def _slice(weight: StoredWeight, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return _narrow(weight, dim, slice(start, end, step))


def _split(weight: StoredWeight, size: int | Sequence[int], dim: int = 0) -> Any:
    if _dim(weight, dim) is None:
        return NotImplemented
    length = weight.shape[dim]
    starts = list(range(0, length, size)) if isinstance(size, int) else [0, *accumulate(size)][:-1]
    return [_narrow(weight, dim, slice(*bounds)) for bounds in pairwise([*starts, length])]


def _select(weight: StoredWeight, dim: int, index: int) -> Any:
    if dim % weight.ndim >= weight.ndim - 2:
        return NotImplemented

    def pick(block: Tensor) -> Tensor:
        return block.select(dim % weight.ndim, index)

    return _changed(weight, pick, order=pick)


def _unbind(weight: StoredWeight, dim: int = 0) -> Any:
    if dim % weight.ndim >= weight.ndim - 2:
        return NotImplemented
    return [_select(weight, dim, index) for index in range(weight.shape[dim])]


def _index_select(weight: StoredWeight, dim: int, index: Tensor) -> Any:
    if (inner := _dim(weight, dim)) is None:
        return NotImplemented

    def pick(block: Tensor) -> Tensor:
        return block.index_select(inner, index)

    return _changed(weight, pick, order=pick if inner < weight.ndim - 2 else None)


def _index(weight: StoredWeight, indices: Sequence[Tensor | None]) -> Any:
    if len(indices) != 1 or indices[0] is None or indices[0].ndim != 1 or indices[0].dtype is torch.bool:
        return NotImplemented
    return _index_select(weight, 0, indices[0])


def _transpose(weight: StoredWeight, first: int, second: int) -> Any:
    if {first % weight.ndim, second % weight.ndim} != {weight.ndim - 2, weight.ndim - 1}:
        return NotImplemented
    return StoredWeight(weight.matrix, weight.dtype, is_transposed=not weight.is_transposed)


def _permute(weight: StoredWeight, dims: Sequence[int]) -> Any:
    *outer, first, second = (dim % weight.ndim for dim in dims)
    return _transpose(weight, first, second) if outer == list(range(weight.ndim - 2)) else NotImplemented


def _view(weight: StoredWeight, shape: Sequence[int]) -> Any:
    """Return the rows in other dimensions; what all rows of a matrix share allows of none."""
    *outer, last = shape
    if weight.is_transposed or weight.matrix.input_order is not None or not outer or last != weight.shape[-1]:
        return NotImplemented

    def arrange(block: Tensor) -> Tensor:
        return block.reshape(*outer, block.shape[-1])

    return _changed(weight, arrange, order=None)


def _unsqueeze(weight: StoredWeight, dim: int) -> Any:
    inner = dim % (weight.ndim + 1)
    is_shared = weight.is_transposed or weight.matrix.input_order is not None
    if inner > weight.ndim - (2 if is_shared else 1):
        return NotImplemented

    def widen(block: Tensor) -> Tensor:
        return block.unsqueeze(inner)

    return _changed(weight, widen, order=widen)


def _cat(weights: Sequence[Any], dim: int = 0) -> Any:
    if not all(isinstance(weight, StoredWeight) for weight in weights):
        return NotImplemented
    first, matrices = weights[0], [weight.matrix for weight in weights]
    inner = _dim(first, dim)
    sides = {weight.is_transposed for weight in weights}
    if inner is None or len(sides) > 1 or not are_alike(matrices, inner):
        return NotImplemented
    return StoredWeight(stack(matrices, inner), first.dtype, is_transposed=first.is_transposed)


def _stack(weights: Sequence[Any], dim: int = 0) -> Any:
    if not all(isinstance(weight, StoredWeight) for weight in weights):
        return NotImplemented
    widened = [_unsqueeze(weight, dim % (weight.ndim + 1)) for weight in weights]
    return NotImplemented if NotImplemented in widened else _cat(widened, dim)


_aten = torch.ops.aten
_OPERATIONS: dict[Any, Callable[..., Any]] = {
    _aten.alias.default: _same,
    _aten.cat.default: _cat,
    _aten.clone.default: _same,  # it is never written to
    _aten.detach.default: _same,
    _aten.index.Tensor: _index,
    _aten.index_select.default: _index_select,
    _aten.lift_fresh.default: _same,
    _aten.permute.default: _permute,
    _aten.select.int: _select,
    _aten.slice.Tensor: _slice,
    _aten.split.Tensor: _split,
    _aten.split_with_sizes.default: _split,
    _aten.stack.default: _stack,
    _aten.t.default: lambda weight: _transpose(weight, 0, 1),
    _aten.transpose.int: _transpose,
    private.TO_COPY: _to,
    _aten.unbind.int: _unbind,
    _aten.unsqueeze.default: _unsqueeze,
    _aten.view.default: _view,
}
