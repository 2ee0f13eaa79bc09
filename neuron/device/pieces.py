"""Large operations of torch a few rows at a time, for those who want to do something else in between.

Rows are independent of each other in all of them. So what comes out is what one call returns, but for
rounding where a kernel goes by the number of rows, or where C is quicker than torch (`encoder_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from neuron.device import encoder_steps

MOST = 1 << 29  # multiplications of a piece: some milliseconds on two cores of a CPU

Pause = Callable[[], None]
_Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def is_large(function: Any) -> bool:
    """Return whether calls of one of torch's functions may be large."""
    return function in _PIECES


def in_pieces(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], pause: Pause) -> Any:
    """Return what a function returns, with pauses between the pieces of a large call."""
    way = _PIECES.get(function) or _QUICKER.get(function)
    made = way(function, args, dict(kwargs), pause) if way else None
    return function(*args, **kwargs) if made is None else made


def register_product(function: Any) -> None:
    """Take a function of rows, a matrix and more for a product of the two."""
    _PIECES[function] = _linear


def _linear(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], pause: Pause) -> Tensor | None:
    """Return the product of rows with a matrix, which is first among the other arguments."""
    rows: Tensor = args[0]
    if len(args) < 2 or rows.device.type != "cpu":
        return None
    count = rows.numel() // max(1, rows.shape[-1])
    most = _rows(args[1].numel())
    if count <= most:
        return None
    parts = torch.split(rows.reshape(count, -1), _even(count, most))
    if function is linear and not kwargs:
        made = _products(parts, args[1], args[2] if len(args) > 2 else None, pause)
    else:
        made = _joined([(function, (part, *args[1:]), kwargs) for part in parts], 0, pause)
    return made.view(*rows.shape[:-1], made.shape[-1])


def _products(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None, pause: Pause) -> Tensor:
    """Return `linear` of rows in parts, each written where it belongs: to join them would copy them all."""
    made = weight.new_empty(sum(map(len, parts)), len(weight))
    for number, (part, out) in enumerate(zip(parts, torch.split(made, len(parts[0])), strict=True)):
        if number:
            pause()
        if bias is None:
            torch.mm(part, weight.t(), out=out)
        else:
            torch.addmm(bias, part, weight.t(), out=out)
    return made


def _matmul(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], pause: Pause) -> Tensor | None:
    left, right = args[:2]
    if left.ndim < 2 or right.ndim < 2 or left.device.type != "cpu" or kwargs:
        return None
    batch = max(math.prod(left.shape[:-2]), math.prod(right.shape[:-2]))  # or more, if both broadcast
    most = _rows(batch * right.shape[-2] * right.shape[-1])
    if left.shape[-2] <= most:
        return None
    parts = torch.split(left, _even(left.shape[-2], most), dim=-2)
    return _joined([(function, (part, right), {}) for part in parts], -2, pause)


def _attention(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], pause: Pause) -> Tensor | None:
    """Return attention of one sequence after the other, each by rows of its queries."""
    query, key, value = args[:3]
    if _hides_nothing(args, kwargs) and encoder_steps.attends_whole(query, key, value):
        return _whole_attention(query, key, value, kwargs.get("scale"), pause)
    per_row = query.shape[-3] * key.shape[-2] * (key.shape[-1] + value.shape[-1]) if query.ndim == 4 else 0
    most = _rows(per_row)
    count = query.shape[-2]
    if len(args) > 3 or not per_row or query.device.type != "cpu" or len(query) * count <= most:
        return None
    if kwargs.get("is_causal") and count != key.shape[-2]:
        return None
    most = _even(count, most)
    mask = kwargs.get("attn_mask")
    sequences = []
    for at in range(len(query)):
        if at:
            pause()
        tensors = [_row(tensor, at) for tensor in (query, key, value)]
        told = kwargs | {"attn_mask": mask if mask is None or mask.ndim < 4 else _row(mask, at)}
        sequences.append(_joined(_by_query(function, tensors, told, most), -2, pause))
    return torch.cat(sequences)


def _hides_nothing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    told = {name for name, value in kwargs.items() if isinstance(value, Tensor) or value}
    return len(args) == 3 and told <= {"scale"}


def _whole_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None, pause: Pause) -> Tensor:
    count, heads, rows, dim = query.shape
    most = _even(rows, _rows(heads * key.shape[2] * (dim + value.shape[3])))
    out = query.new_empty(count, rows, heads, value.shape[3])
    for at in range(count):
        for start in range(0, rows, most):
            if at or start:
                pause()
            part = slice(start, start + most)
            encoder_steps.attend_whole(
                query[at, :, part], key[at], value[at], dim**-0.5 if scale is None else scale, out[at, part]
            )
    return out.transpose(1, 2)


def _by_query(function: Any, tensors: Sequence[Tensor], kwargs: dict[str, Any], most: int) -> Iterator[_Call]:
    query, key, value = tensors
    mask = kwargs["attn_mask"]
    for start in range(0, query.shape[-2], most):
        rows = query[..., start : start + most, :]
        end = start + rows.shape[-2]
        if kwargs.get("is_causal"):
            seen = torch.ones(end - start, end, dtype=torch.bool).tril(diagonal=start)
            told = kwargs | {"is_causal": False, "attn_mask": seen}
            yield function, (rows, key[..., :end, :], value[..., :end, :]), told
        elif mask is not None and mask.shape[-2] > 1:
            yield function, (rows, key, value), kwargs | {"attn_mask": mask[..., start:end, :]}
        else:
            yield function, (rows, key, value), kwargs


def _row(tensor: Tensor, at: int) -> Tensor:
    """Return one row of a batch; of a tensor that has one for all, that one."""
    return tensor if len(tensor) == 1 else tensor[at : at + 1]


def _convolution(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], pause: Pause) -> Tensor | None:
    images, weight = args[:2]
    if images.ndim != weight.ndim or images.device.type != "cpu":
        return None
    # About: as if strides were as long as kernels, as they are where images are cut into patches.
    most = _rows(images[0].numel() * len(weight)) if len(images) else 0
    if len(images) <= most:
        return None
    parts = torch.split(images, _even(len(images), most))
    return _joined([(function, (part, *args[1:]), kwargs) for part in parts], 0, pause)


def _gelu(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], __: Pause) -> Tensor | None:
    is_ours = kwargs == {"approximate": "tanh"} and len(args) == 1 and encoder_steps.has_gelu(args[0])
    return encoder_steps.gelu(args[0]) if is_ours else None


def _add(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _: Pause) -> Tensor | None:
    """Return a sum that lies in a row, of which all layers of an encoder would else be made as the patches of
    an image lie after the convolution: turned."""
    left = args[0]
    if kwargs or not isinstance(left, Tensor) or left.device.type != "cpu" or left.is_contiguous():
        return None
    made: Tensor = function(left.contiguous(), *args[1:])
    return made


def _rows(per_row: int) -> int:
    """Return how many rows a piece has at most."""
    return max(1, MOST // max(1, per_row))


def _even(count: int, most: int) -> int:
    """Return the length of pieces of which none is much shorter than the others."""
    return -(-count // -(-count // most))


def _joined(calls: Iterable[_Call], dim: int, pause: Pause) -> Tensor:
    """Return what calls return, with a pause between any two, joined along a dimension."""
    parts = []
    for number, (function, args, kwargs) in enumerate(calls):
        if number:
            pause()
        parts.append(function(*args, **kwargs))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


_PIECES: dict[Any, Callable[..., Tensor | None]] = {
    linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    scaled_dot_product_attention: _attention,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
}
_QUICKER: dict[Any, Callable[..., Tensor | None]] = {gelu: _gelu, torch.add: _add, Tensor.add: _add}
