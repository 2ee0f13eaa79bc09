"""Mutated inputs for everything that reads what strangers send: python -m bench.fuzz

Each number is an input of one target, always the same for a seed. All of a seed's numbers up to --count are
checked; build/fuzz-SEED.json keeps how far earlier runs came, and what they found, so that a run that was
stopped goes on there. --at N checks one input alone. What hangs or dies is ended, noted, and passed over.

    seed            of the inputs
    count           inputs that were checked, those of earlier runs included
    asked           inputs that were asked for
    inputs          that were checked in this run, by target
    inputs_per_s    in this run
    crashes         inputs that ended the process, or whose reader raised what it may not raise
    hangs           inputs that took longer than 20 s
    differences     inputs of which two readers do not say the same
    details         a line for each of those, with its number; at most 50

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from bench import command
from bench.fuzz.targets import TARGETS, DifferenceError

KEPT = Path(__file__).parents[2] / "build"
# The targets of one number after the other. A text of calls, which is read letter by letter, takes 10 times
# as long as any other input.
TURNS = [name for name in TARGETS for _ in range(1 if name == "calls" else 4)]
BLOCK = 20_000  # inputs of one process
LIMIT_S = 20.0
MAX_DETAILS = 50


@dataclass
class Kept:
    """How far the numbers of a seed were checked, and what was found."""

    count: int = 0
    crashes: int = 0
    hangs: int = 0
    differences: int = 0
    details: list[str] = field(default_factory=list)

    def note(self, kind: str, number: int, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.details) < MAX_DETAILS:
            self.details.append(f"{number} ({TURNS[number % len(TURNS)]}), {kind}: {what}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, help="default: 10,000,000, with --quick 200,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", type=int, metavar="N", help="check input N alone")
    parser.add_argument("--again", action="store_true", help="forget what earlier runs found")


def measure(run: command.Run) -> dict[str, Any]:
    options, started = run.options, time.monotonic()
    asked = run.pick(10_000_000, 200_000, 600) if options.count is None else options.count
    file = KEPT / f"fuzz-{options.seed}.json"
    is_kept = run.size is not command.Size.SMOKE and options.at is None
    kept = Kept()
    if is_kept and file.exists() and not options.again:
        kept = Kept(**json.loads(file.read_text()))
    first, end = (kept.count, asked) if options.at is None else (options.at, options.at + 1)
    number = first
    while number < end and run.budget.allows(f"inputs from {number} on"):
        until = min(end, number + BLOCK)
        number = kept.count = check_block(kept, options.seed, number, until)
        if is_kept:
            KEPT.mkdir(exist_ok=True)
            file.write_text(json.dumps(vars(kept)))
        run.say(f"{number} of {end}: {len(kept.details)} found")
    done = Counter(TURNS[each % len(TURNS)] for each in range(first, number))
    return {
        "seed": options.seed,
        "count": kept.count if options.at is None else number - first,
        "asked": asked if options.at is None else 1,
        "inputs": dict(done),
        "inputs_per_s": (number - first) / (time.monotonic() - started),
        "crashes": kept.crashes,
        "hangs": kept.hangs,
        "differences": kept.differences,
        "details": kept.details,
    }


# --- a process of its own ---


def check_block(kept: Kept, seed: int, start: int, end: int) -> int:
    """Check the numbers up to `end`; return that, or the one behind an input that ended the process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_check, args=(theirs, seed, start, end))
    process.start()
    theirs.close()
    number = start
    try:
        while number < end:
            if not ours.poll(LIMIT_S):
                kept.note("hangs", number, f"not read within {LIMIT_S:.0f} s")
                return number + 1
            told = ours.recv()
            if told is not None:
                kept.note(told[0], number, told[1])
            number += 1
    except EOFError:
        process.join()
        kept.note("crashes", number, f"the process ended with {process.exitcode}")
        return number + 1
    finally:
        process.kill()
        process.join()
        ours.close()
    return end


def _check(pipe: Connection, seed: int, start: int, end: int) -> None:
    """Tell of each number None, or what is wrong and in which words."""
    with suppress(BrokenPipeError, KeyboardInterrupt):
        for number in range(start, end):
            pipe.send(_found(seed, number))


def _found(seed: int, number: int) -> tuple[str, str] | None:
    try:
        TARGETS[TURNS[number % len(TURNS)]](Random(f"{seed}:{number}"))  # noqa: S311
    except DifferenceError as error:
        return "differences", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is one, too
        return "crashes", f"{type(error).__name__}: {error}"[:2000]
    return None


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        command.run("fuzz", __doc__, measure, add_options=add_options)
