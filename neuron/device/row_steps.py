"""What a decoder does between its products that is neither attention nor a recurrence, in C on a CPU.

One token takes torch some ten microseconds for each operation, and nothing of it is the operation. Each
function here is one call of `ext.matmul`, which also records it (`decode_programs`).
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ext import matmul

_native: Any = matmul.load()
STORED = {torch.float32: 0, torch.bfloat16: 1}  # what can be written to a cache
_GATHERED = STORED | {torch.float16: 2}
_PLAIN = {Tensor, torch.nn.Parameter}


def runs_in_c(x: Tensor) -> bool:
    """Return whether these functions can take a tensor, which may be rows of a larger one."""
    return _native is not None and x.dtype is torch.float32 and x.device.type == "cpu"


@cache
def bits(value: float) -> int:
    """Return a float32 as the whole number that `ext.matmul` takes for it."""
    (number,) = struct.unpack("I", struct.pack("f", value))
    return int(number)


def norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Return the root mean square norm of contiguous rows, times a weight, (dim,). `eps` is a scalar."""
    out = torch.empty_like(x)
    dim = x.shape[-1]
    _norm(x.view(-1, dim), weight, eps, out.view(-1, dim))
    return out


def norm_to(x: Tensor, weight: Tensor, eps: Tensor, out: Tensor) -> None:
    """Write the norm of contiguous rows, (rows, dim), to `out`, which may be parts of longer ones."""
    _norm(x, weight, eps, out)


def norm_in_place(x: Tensor, weight: Tensor, eps: Tensor) -> None:
    """Norm rows, (rows, dim), that may be parts of longer ones."""
    _norm(x, weight, eps, x)


def _norm(x: Tensor, weight: Tensor, eps: Tensor, out: Tensor) -> None:
    _native.norm(
        *(matmul.instruction_set(), *x.shape, x.data_ptr(), x.stride(0), weight.data_ptr(), eps.data_ptr()),
        *(out.data_ptr(), out.stride(0), torch.get_num_threads()),
    )


def add(x: Tensor, to: Tensor) -> Tensor:
    """Return `to` after adding `x` to it, of any dtype and on any device."""
    if not all(runs_in_c(part) and part.is_contiguous() for part in (x, to)):
        return to.add_(x)
    _native.add(x.data_ptr(), x.numel(), to.data_ptr())
    return to


def rotate(
    heads: Tensor,
    weight: Tensor | None,
    eps: Tensor | None,
    angles: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
) -> None:
    """Norm heads by weights, (heads, dim), rotate them by angles, and round them to what `dtype` can be.

    Heads are (tokens, heads, dim), contiguous but for the distance between tokens, and angles cosines and
    sines, each (tokens, 1, rotated), those of the first half negated. Either may be missing.
    """
    tokens, count, dim = heads.shape
    cos, sin = angles or (None, None)
    _native.rotate(
        *(matmul.instruction_set(), tokens, count, dim, 0 if cos is None else cos.shape[-1]),
        *(heads.data_ptr(), heads.stride(0), address(weight), address(eps), address(cos), address(sin)),
        *(STORED[dtype], torch.get_num_threads()),
    )


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """Return `x`, (rows, dim) and contiguous, after multiplying it by the sigmoid of a gate of that shape."""
    _native.sigmoid_gate(
        *(matmul.instruction_set(), *x.shape, gate.data_ptr(), gate.stride(0)),
        *(x.data_ptr(), torch.get_num_threads()),
    )
    return x


def scale_by_sigmoid(x: Tensor, gate: Tensor) -> Tensor:
    """Return `x`, (rows, dim), after multiplying each row by the sigmoid of its `gate`, (rows, 1).

    Both are of any dtype and on any device.
    """
    if not all(runs_in_c(part) and part.is_contiguous() for part in (x, gate)):
        return x.mul_(gate.sigmoid())
    _native.scale_by_sigmoid(*x.shape, gate.data_ptr(), x.data_ptr())
    return x


def silu_gate(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, (rows, width), of contiguous rows that have first one, then the other."""
    out = torch.empty(len(gate_up), gate_up.shape[1] // 2)
    places = gate_up.data_ptr(), out.data_ptr()
    _native.silu_gate(matmul.instruction_set(), *out.shape, *places, torch.get_num_threads())
    return out


def clamped_gate(gate_up: Tensor, alpha: float, limit: float) -> Tensor:
    """Return g sigmoid(alpha g) (u + 1), (rows, width), of contiguous rows that have g and u by turns.

    First g is made at most `limit`, and u at most that far from zero.
    """
    out = torch.empty(len(gate_up), gate_up.shape[1] // 2)
    _native.clamped_gate(
        *(matmul.instruction_set(), *out.shape, gate_up.data_ptr(), bits(alpha), bits(limit)),
        *(out.data_ptr(), torch.get_num_threads()),
    )
    return out


def largest(x: Tensor) -> list[int]:
    """Return the place of each row's largest number, the first of several; -1 for a row with NaN.

    Rows are float32 and on any device.
    """
    if not (runs_in_c(x) and x.is_contiguous()):
        places = x.argmax(dim=-1).masked_fill_(x.isnan().any(dim=-1), -1)
    else:
        places = torch.empty(len(x), dtype=torch.int64)
        find_largest(x, places)
    found: list[int] = places.tolist()
    return found


def find_largest(x: Tensor, places: Tensor) -> None:
    """Write what `largest` returns, of contiguous rows on a CPU."""
    shape = matmul.instruction_set(), *x.shape
    _native.largest(*shape, x.data_ptr(), places.data_ptr(), torch.get_num_threads())


def gather(x: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Return some rows of what `can_gather`, (…, dim), by number, in float32, and in `out` if given."""
    dim = x.shape[-1]
    out = torch.empty(len(rows), dim) if out is None else out
    _native.gather_rows(
        *(matmul.instruction_set(), len(rows), dim, x.data_ptr(), _GATHERED[x.dtype]),
        *(rows.data_ptr(), out.data_ptr(), torch.get_num_threads()),
    )
    return out


def can_gather(x: Tensor) -> bool:
    """Return whether `gather` can read a tensor."""
    return _native is not None and type(x) in _PLAIN and x.dtype in _GATHERED and x.is_contiguous()


def can_store(x: Tensor, pool: Tensor) -> bool:
    """Return whether `store` can write a tensor to a pool, one of (pages, page_size, heads, dim)."""
    return runs_in_c(x) and pool.dtype in STORED and x.stride()[1:] == (x.shape[2], 1)


def store(x: Tensor, places: Tensor, pool: Tensor) -> None:
    """Write (tokens, heads, dim) to rows of a pool, (pages, page_size, heads, dim)."""
    _native.store(
        *(matmul.instruction_set(), len(x), x.shape[1] * x.shape[2], x.data_ptr(), x.stride(0)),
        *(places.data_ptr(), pool.data_ptr(), STORED[pool.dtype]),
    )


def locate(
    slots: Tensor, positions: Tensor, table: Tensor, page_size: int, outs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write the pages of slots, the ends of their sequences, and the places of the tokens at `positions`."""
    addresses = (x.data_ptr() for x in (slots, positions, table, *outs))
    _native.locate(len(slots), table.shape[1], page_size, *addresses)


def address(x: Tensor | None) -> int:
    """Return where a tensor is, 0 for none."""
    return 0 if x is None else x.data_ptr()
