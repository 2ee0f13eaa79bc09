"""Codes out of the words that they are packed in, and in the layout of `ScaledCodes`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix

FLOATS = ("F32", "F16", "BF16")  # in which scales are stored


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Return `count` codes of each row of int32 words, (…, words) to (…, count) uint8.

    Code i is the bits from `bits` · i on, the lowest of the first word first.
    """
    packed = words.contiguous().view(torch.uint8)
    if bits == 8:
        return packed[..., :count]
    if bits in {2, 4}:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        return codes.flatten(-2)[..., :count]
    singles = ((packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)
    singles = singles[..., : count * bits].view(*words.shape[:-1], count, bits)
    return (singles << torch.arange(bits, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def row_codes(words: Tensor, bits: int, count: int, order: Tensor | None) -> Tensor:
    """Return the codes of int32 words, packed along inputs, (out, words), as `integers` takes them."""
    if bits in {4, 8} and order is None:
        return words.contiguous().view(torch.uint8)[:, : count * bits // 8]
    codes = unpack(words, bits, count)
    if order is not None:
        codes = codes.index_select(-1, order)
    return codes[:, 0::2] | (codes[:, 1::2] << 4) if bits == 4 else codes


def column_codes(words: Tensor, bits: int, count: int, order: Tensor | None) -> Tensor:
    """Return the same of words that are transposed, (words, out)."""
    if bits not in {4, 8} or order is None:
        return row_codes(words.t(), bits, count, order)
    per_word, mask = 32 // bits, (1 << bits) - 1
    ordered = torch.zeros_like(words)
    for place in range(per_word):  # whole rows of words, which is ten times as fast as codes one by one
        inputs = order[place::per_word]
        moved = words.index_select(0, inputs // per_word)
        moved.bitwise_right_shift_((inputs % per_word * bits).int().unsqueeze(1))
        ordered |= moved.bitwise_and_(mask).bitwise_left_shift_(place * bits)
    return row_codes(ordered.t(), bits, count, None)


def integer_format(bits: int, group_size: int, *, has_zeros: bool) -> ScaledCodes:
    """Return the format that keeps integers of `bits`: four in four bits, any other number in eight."""
    return ScaledCodes("int4" if bits == 4 else "int8", group_size, has_zeros)


def integers(
    kept: ScaledCodes,
    bits: int,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    order: Tensor | None = None,
) -> Matrix:
    """Return the matrix of codes of `bits`, in pairs if they are four, scales and zeros, (out, groups).

    Without zeros a code's zero is the middle of all. `order` has the input of each column.
    """
    if zeros is not None and bool((zeros == 1 << bits - 1).all()):
        kept, zeros = replace(kept, has_zeros=False), None
    if zeros is None and kept.bits == 8 and bits != 8:
        codes = codes + (128 - (1 << bits - 1))  # whose middle is that of eight bits
    blocks = [codes, scales.float(), *([] if zeros is None else [zeros])]
    return Matrix(
        kept,
        tuple(block.contiguous() for block in blocks),
        None,
        codes.shape[-1] * 8 // kept.bits,
        input_order=None if order is None else order.unsqueeze(0),
    )


def group_order(groups: Tensor | None, group_size: int) -> Tensor | None:
    """Return the inputs in the order of their groups; None if that is their own, as where a group is -1.

    Raises ValueError if groups are not of one size.
    """
    if groups is None or bool((groups == -1).any()):
        return None
    order = groups.argsort(stable=True)
    wanted = torch.arange(len(groups)) // group_size
    if not torch.equal(groups[order].long(), wanted):
        raise ValueError(f"inputs are in groups of other sizes than {group_size}, which does not run")
    return None if torch.equal(groups.long(), wanted) else order
