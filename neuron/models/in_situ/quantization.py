"""How weights of plain numbers are quantized: in which format, and by which code, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ext import compiled
from neuron.models import huge_pages
from neuron.models.formats.block_type import BlockType
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.in_situ import reference
from neuron.models.matrix import Matrix

_compiled = compiled("quantize")

InSituFormat = BlockType | ScaledCodes

_PIECE = 1 << 18  # values that a thread takes at a time
_PIECES = 16  # between two pauses
_KINDS = {torch.float32: 0, torch.bfloat16: 1}  # that the compiled code reads
_FALLBACKS = {"q4_k": ("q4_k", "q5_0"), "q8_0": ("q8_0",)}  # as llama.cpp's quantizer has them
_GROUPS = (128, 32)


def format_of(quant: str, in_features: int) -> InSituFormat | None:
    """Return the format that rows of `in_features` get where `quant` is asked for; None to leave them."""
    if quant == "fp8":
        return ScaledCodes("fp8", in_features)
    if quant == "int4":
        groups = (group for group in _GROUPS if in_features % group == 0)
        return next((ScaledCodes("int4", group, has_zeros=True) for group in groups), None)
    formats = (BLOCK_TYPES[name] for name in _FALLBACKS[quant])
    return next((form for form in formats if in_features % form.elements == 0), None)


def quantize(
    weight: Tensor, form: InSituFormat, num_threads: int, pause: Callable[[], None] = lambda: None
) -> Matrix:
    """Return a weight of plain numbers, (…, out, in), as `form` stores it.

    The bytes are the same whatever the number of threads, with compiled code and without. Beside them no more
    than a piece of the numbers for each thread is held. `pause` is called between some pieces. Raises
    ValueError for numbers that are not finite.
    """
    width = weight.shape[-1]
    rows = weight.reshape(-1, width)
    blocks = [huge_pages.empty((len(rows), size), dtype) for size, dtype in _row_sizes(form, width)]
    step = max(1, _PIECE // width)

    def quantize_piece(start: int) -> bool:
        part = slice(start, start + step)
        return _quantize_rows(rows[part], form, [block[part] for block in blocks])

    starts = range(0, len(rows), step)
    are_finite = True
    with ThreadPoolExecutor(num_threads) as threads:  # which starts none that has no work
        is_small = num_threads == 1 or len(starts) == 1
        done = (map if is_small else threads.map)(quantize_piece, starts)
        for number, is_finite in enumerate(done, 1):
            are_finite &= is_finite
            if number % _PIECES == 0:
                pause()
    if not are_finite:
        raise ValueError("holds values that are not finite")
    shaped = tuple(block.view(*weight.shape[:-1], -1) for block in blocks)
    return Matrix(form, shaped, None, width)


def _row_sizes(form: InSituFormat, in_features: int) -> list[tuple[int, torch.dtype]]:
    """Return width and dtype of each tensor of a matrix with so many inputs."""
    if isinstance(form, BlockType):
        return [(form.row_bytes(in_features), torch.uint8)]
    groups = in_features // form.group_size
    sizes = [(in_features * form.bits // 8, torch.uint8), (groups, torch.float32)]
    return [*sizes, (groups, torch.uint8)] if form.has_zeros else sizes


def _quantize_rows(rows: Tensor, form: InSituFormat, blocks: Sequence[Tensor]) -> bool:
    """Fill `blocks` with what is stored of the rows; return whether all values are finite."""
    if call := _compiled_call(form, rows.shape[1]):
        rows = rows.contiguous() if rows.dtype in _KINDS else rows.float().contiguous()
        return bool(call(rows.data_ptr(), _KINDS[rows.dtype], len(rows), *(b.data_ptr() for b in blocks)))
    rows = rows.float().contiguous()
    for block, made in zip(blocks, _reference(form)(rows), strict=True):
        block.copy_(made)
    return bool(rows.isfinite().all())


def _compiled_call(form: InSituFormat, width: int) -> Callable[..., bool] | None:
    """Return compiled code: it takes address and kind of rows, their number, and addresses of results."""
    function = getattr(_compiled, form.name, None)
    if function is None:
        return None
    group = () if isinstance(form, BlockType) else (form.group_size,)
    return lambda values, kind, count, *results: function(values, kind, count * width, *group, *results)


def _reference(form: InSituFormat) -> Callable[[Tensor], Sequence[Tensor]]:
    if form.name == "int4":
        assert isinstance(form, ScaledCodes)
        return partial(reference.int4, group=form.group_size)
    function: Callable[[Tensor], Sequence[Tensor]] = getattr(reference, form.name)
    return function
