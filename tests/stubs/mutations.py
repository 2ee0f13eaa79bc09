"""Inputs that are nearly right, drawn with `random.Random`: the same seed gives the same ones for ever."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

MAX_EDITS = 4
SCALARS: list[Any] = [None, True, False, 0, 1, -1, 2, 1 << 31, 1 << 63, 10**30, 0.5, -0.0, 1e300]
SCALARS += ["", "x", "é", "\ud800", [], {}, [[]], [None], {"": 0}]
DEPTH = 3000  # of what is nested too deeply


def mutated_bytes(dice: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """`data` with a few places changed: to one of `words`, to noise, to what stands elsewhere, or cut off."""
    for _ in range(dice.randint(0, MAX_EDITS)):
        at = dice.randint(0, len(data))
        end = min(len(data), at + dice.choice((0, 0, 1, 1, 2, 5, 20)))
        data = data[:at] + _put(dice, data, words) + (b"" if dice.random() < 0.05 else data[end:])
    return data


def _put(dice: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    kind = dice.random()
    if kind < 0.5 and words:
        return dice.choice(words)
    if kind < 0.65:
        return dice.randbytes(dice.randint(1, 3))
    if kind < 0.85:
        start = dice.randint(0, len(data))
        return data[start : start + dice.choice((1, 4, 16, 64))]
    return dice.choice(string.printable).encode() if kind < 0.95 else b""


def pieces(dice: Random, data: Any) -> list[Any]:
    """Bytes or a text, cut anywhere."""
    edges = sorted({0, len(data), *(dice.randint(0, len(data)) for _ in range(dice.randint(0, 5)))})
    return [data[start:end] for start, end in pairwise(edges)]


def mutated_json(dice: Random, value: Any, words: Sequence[Any] = ()) -> Any:
    """A copy of `value` with a few nodes changed, left out, renamed, or put elsewhere, too."""
    box = [_copy(value)]
    for _ in range(dice.randint(1, MAX_EDITS)):
        holders = _holders(box)
        holder = dice.choice(holders)
        key = dice.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = dice.random()
        if change < 0.15 and holder is not box:
            del holder[key]
        elif change < 0.3 and isinstance(holder, dict):
            holder[str(dice.choice([*words, *SCALARS]))] = holder.pop(key)
        elif change < 0.45:
            other = dice.choice(holders)
            holder[key] = _copy(dice.choice([*other.values()] if isinstance(other, dict) else other))
        else:
            holder[key] = _copy(dice.choice([*words, *SCALARS]))
    return box[0]


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _holders(value: Any) -> list[Any]:
    """The objects and lists in `value` that are not empty, itself among them."""
    found, waiting = [], [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (dict, list)) and node:
            found.append(node)
            waiting += node.values() if isinstance(node, dict) else node
    return found


def nested(depth: int = DEPTH) -> str:
    """JSON that is nested deeper than readers follow."""
    return '{"a":' * depth + "1" + "}" * depth
