"""How much of each thing is measured, by the size of a run."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """How much of each thing is done."""

    new: int  # tokens a request
    repeats: int
    rounds: int  # of latencies
    prefix: int  # tokens
    steps: int  # of decoding, against their products
    blocks: int | None = None  # of generate_batch's cache; None: as many as it finds memory for


FULL = Extent(new=64, repeats=4, rounds=5, prefix=2000, steps=64)
QUICK = Extent(new=16, repeats=2, rounds=1, prefix=2000, steps=32)
SMOKE = Extent(new=2, repeats=1, rounds=1, prefix=1200, steps=2, blocks=32)
