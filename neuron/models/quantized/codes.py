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


def pack_pairs(codes: Tensor) -> Tensor:
    """Return codes of four bits, two in a byte, the even one in its lower half."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def integer_format(bits: int, group_size: int, *, has_zeros: bool) -> ScaledCodes:
    """Return the format that keeps integers of `bits`: four in four bits, any other number in eight."""
    return ScaledCodes("int4" if bits == 4 else "int8", group_size, has_zeros)


def integers(
    kept: ScaledCodes,
    bits: int,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    groups: Tensor | None = None,
) -> Matrix:
    """Return the matrix of codes of `bits`, (out, in), scales and zeros, (out, groups), as they are stored.

    Without zeros a code's zero is the middle of all. `groups` has the group of each input, unless they are in
    order. Raises ValueError if groups are not of one size.
    """
    if zeros is not None and bool((zeros == 1 << bits - 1).all()):
        kept, zeros = replace(kept, has_zeros=False), None
    order = None if groups is None else group_order(groups, kept.group_size)
    if order is not None:
        codes = codes.index_select(-1, order)
    if bits == 4:
        codes = pack_pairs(codes)
    elif zeros is None:
        codes = codes + (128 - (1 << bits - 1))  # whose middle is that of eight bits
    blocks = [codes, scales.float(), *([] if zeros is None else [zeros])]
    return Matrix(
        kept,
        tuple(block.contiguous() for block in blocks),
        None,
        codes.shape[-1] * (2 if bits == 4 else 1),
        input_order=None if order is None else order.unsqueeze(0),
    )


def group_order(groups: Tensor, group_size: int) -> Tensor | None:
    """Return the inputs in the order of their groups; None if that is their own."""
    order = groups.argsort(stable=True)
    wanted = torch.arange(len(groups), device=groups.device) // group_size
    if not torch.equal(groups[order].long(), wanted):
        raise ValueError(f"inputs are in groups of other sizes than {group_size}, which does not run")
    return None if torch.equal(groups.long(), wanted) else order
