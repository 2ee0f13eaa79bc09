"""Products of weights as they are stored, format by format: python -m bench.products

    fraction      bytes of weights that a product of one row reads a second, over those of a loop that only
                  reads: `fraction[format]`
    over_torch    CPU time of torch, which makes floats of the weights for each product, over ours, by the
                  number of rows: `over_torch[format]`
    products      GB of weights read and billions of multiplications a second, by the number of rows:
                  `products[format]`
    read_gb_s     what the loop reads a second, at best
    compiled      whether `ext` is compiled; where it is not, torch multiplies, and every other figure is null

Weights are larger than caches; each time is the best of many. Options and the other keys of the result are
those of `bench.command`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, reduce
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import command
from bench.engine.bandwidth import Memory
from ext import matmul
from neuron.models import huge_pages
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix

GROUP = 128
SCALED = ("int4", "int8", "fp8", "nf4")
BLOCKS = [name for name, kind in BLOCK_TYPES.items() if kind.elements > 1 and name != "tq1_0"]
ROWS = (1, 4, 16, 64, 512)


class Extent(NamedTuple):
    """How much is done: matrices of outputs by inputs, so many bytes of each format, in so many turns."""

    outs: int
    ins: int
    num_bytes: int
    turns: int


FULL = Extent(2048, 4096, 160 << 20, 12)
QUICK = Extent(1024, 4096, 96 << 20, 4)
SMOKE = Extent(64, 512, 1, 1)


def matrix(name: str, outs: int, ins: int) -> Matrix:
    """A random matrix, whose scales are numbers, and none so small that arithmetic is slow."""
    if name in BLOCK_TYPES:
        kind = BLOCK_TYPES[name]
        blocks = torch.randint(64, (outs, ins // kind.elements, kind.size), dtype=torch.uint8)
        if name == "mxfp4":
            blocks[..., 0] += 96  # the exponent
        return Matrix(kind, (blocks.flatten(1),), None, ins)
    codes = torch.randint(64, (outs, ins // (1 if name in {"int8", "fp8"} else 2)), dtype=torch.uint8)
    return Matrix(ScaledCodes(name, GROUP), (codes, torch.rand(outs, ins // GROUP)), None, ins)


def num_bytes(of: Matrix) -> int:
    return sum(block.nbytes for block in of.blocks)


def _in_huge_pages(blocks: Tensor) -> Tensor:
    return huge_pages.empty(blocks.shape, blocks.dtype).copy_(blocks)


class Took(NamedTuple):
    """Seconds on the clock, and of all threads together."""

    wall: float = float("inf")
    cpu: float = float("inf")

    def best(self, other: Took) -> Took:
        return Took(*map(min, self, other))


def took(call: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


class Products:
    """The products with as many matrices of a format as caches can't hold, in turn."""

    def __init__(self, name: str, extent: Extent) -> None:
        first = matrix(name, extent.outs, extent.ins)
        self.num_bytes = num_bytes(first)
        count = 1 + extent.num_bytes // self.num_bytes
        copies = (replace(first, blocks=tuple(map(_in_huge_pages, first.blocks))) for _ in range(count))
        self._products = cycle([of.format.product(of) for of in copies])
        self.slow = dequantized_product(first)
        self.count = count

    def took(self, x: Tensor) -> Took:
        """What a product takes at best, of one with each matrix; of fewer, if rows are many."""
        count = max(1, self.count // len(x))
        return reduce(Took.best, (took(lambda: next(self._products)(x)) for _ in range(count)))


def measured(name: str, extent: Extent, memory: Memory, rounds: Iterator[int]) -> dict[str, Any]:
    """A format's figures, each the best of its turns."""
    products = Products(name, extent)
    inputs = {rows: torch.randn(rows, extent.ins) for rows in ROWS}
    best = dict.fromkeys(ROWS, Took())
    slow, read = best.copy(), float("inf")
    for _ in rounds:
        read = min(read, memory.read())
        for rows, x in inputs.items():
            best[rows] = best[rows].best(products.took(x))
            slow[rows] = slow[rows].best(took(partial(products.slow, x)))
    return {
        "over_torch": {rows: slow[rows].cpu / best[rows].cpu for rows in ROWS},
        "products": {
            rows: {
                "gb_s": products.num_bytes / ours.wall / 1e9,
                "gmul_s": rows * extent.outs * extent.ins / ours.wall / 1e9,
            }
            for rows, ours in best.items()
        },
        "read_gb_s": memory.num_bytes / read / 1e9,
    }


def measure(run: command.Run) -> dict[str, Any]:
    torch.set_num_threads(run.options.threads)
    names = [*BLOCKS, *SCALED]
    found: dict[str, Any] = {}
    if matmul.load():
        with tempfile.TemporaryDirectory() as folder:
            memory = Memory(Path(folder), run.options.threads)
            for name in names:
                extent = run.pick(FULL, QUICK, SMOKE)
                rounds = run.budget.share(1 / len(names)).rounds(extent.turns, name)
                found[name] = measured(name, extent, memory, rounds)
                run.say(f"{name}: {found[name]}")
    figures = {
        key: {name: row[key] for name, row in found.items()} or None for key in ("over_torch", "products")
    }
    read_gb_s = max((row["read_gb_s"] for row in found.values()), default=None)
    fraction = {name: row["products"][1]["gb_s"] / read_gb_s for name, row in found.items()} or None
    return figures | {"fraction": fraction, "read_gb_s": read_gb_s, "compiled": bool(found)}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2)


if __name__ == "__main__":
    command.run("products", __doc__, measure, add_options=add_options)
