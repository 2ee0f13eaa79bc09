"""The command line that all benchmarks share, and the result with which each of them ends.

    --quick         fewer rounds, shorter ones: within three minutes, peers once they are installed
    --smoke         the least of everything, within seconds: shows that the benchmark runs, no more
    --within S      another budget, in seconds
    --json          print nothing but the result, as one line
    --out FILE      write the result there, too
    --peers [NAME]  compare with these peers (default: all of them; none with --smoke)

The result is one JSON object. Beside the benchmark's own keys, which its docstring lists, it has

    bench       the benchmark's name
    size        full, quick or smoke
    shortened   what the budget shortened or left out; a figure that is missing for it is null
    missing     the peers that were left out, and why; their figures are null
    machine     what the figures were measured on
    total_s     how long all of it took, installing peers aside
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from bench.budget import Budget
from bench.figures import rounded, save, table
from bench.machine import machine
from bench.peers import Peer

QUICK_S, SMOKE_S = 170.0, 45.0  # the last round of a budget may end a little late

T = TypeVar("T")


class Size(StrEnum):
    FULL = "full"
    QUICK = "quick"
    SMOKE = "smoke"


@dataclass
class Run:
    """One run of a benchmark: its size, its budget, and the peers it compares with."""

    size: Size
    budget: Budget
    options: argparse.Namespace
    peers: list[Peer] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def pick(self, full: T, quick: T, smoke: T) -> T:
        """The value for this run's size."""
        return {Size.FULL: full, Size.QUICK: quick, Size.SMOKE: smoke}[self.size]

    def has(self, name: str) -> bool:
        """Whether the peer `name` takes part."""
        return any(peer.name == name for peer in self.peers)

    def say(self, text: str) -> None:
        """Report progress."""
        if not self.options.json:
            print(text, file=sys.stderr, flush=True)


def run(  # noqa: PLR0913
    name: str,
    doc: str | None,
    measure: Callable[[Run], dict[str, Any]],
    *,
    peers: Sequence[Peer] = (),
    full_s: float | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    show: Callable[[dict[str, Any]], Iterable[str]] = table,
    needs_peers: Callable[[argparse.Namespace], bool] = lambda _: True,
) -> dict[str, Any]:
    """Read the command line, measure, print the result and return it.

    `measure` returns the benchmark's own figures; `full_s` is its budget when it runs in full. `show` returns
    the lines that are printed without `--json`. Peers are left out where nobody names them and the options
    need none.
    """
    options = _parse(name, doc, peers, add_options)
    chosen = Size.SMOKE if options.smoke else Size.QUICK if options.quick else Size.FULL
    this = Run(chosen, Budget(), options)
    _choose_peers(this, peers, is_needed=needs_peers(options))
    this.budget = Budget(options.within or this.pick(full_s, QUICK_S, SMOKE_S))
    figures = measure(this)
    result = rounded({
        "bench": name,
        "size": chosen.value,
        **figures,
        "shortened": this.budget.shortened,
        "missing": this.missing,
        "machine": machine() | figures.get("machine", {}),
        "total_s": this.budget.elapsed,
    })  # fmt: skip
    if options.out:
        save(result, options.out)
    if options.json:
        print(json.dumps(result))
    else:
        print(*show(result), sep="\n")
    return result


def _parse(
    name: str,
    doc: str | None,
    peers: Sequence[Peer],
    add_options: Callable[[argparse.ArgumentParser], None],
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="fewer rounds, shorter ones: within 3 minutes")
    sizes.add_argument("--smoke", action="store_true", help="the least of everything: whether it runs")
    parser.add_argument("--within", type=float, metavar="S", help="another budget, in seconds")
    parser.add_argument("--json", action="store_true", help="print nothing but the result, as one line")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there, too")
    if peers:
        names = [peer.name for peer in peers]
        parser.add_argument(
            "--peers", nargs="*", choices=names, help="compare with these (default: all; none with --smoke)"
        )
    add_options(parser)
    return parser.parse_args()


def _choose_peers(this: Run, peers: Sequence[Peer], *, is_needed: bool) -> None:
    """Install what is not there yet; sort `peers` into those that take part and those that are missing."""
    asked = getattr(this.options, "peers", None)
    if asked is None:
        asked = [peer.name for peer in peers if is_needed and this.size is not Size.SMOKE]
    for peer in peers:
        if peer.name not in asked:
            this.missing[peer.name] = "not asked for"
        elif problem := _prepare(this, peer):
            this.missing[peer.name] = problem
            this.say(f"{peer.name} is left out: {problem}")
        else:
            this.peers.append(peer)


def _prepare(this: Run, peer: Peer) -> str:
    if peer.is_ready():
        return ""
    if peer.needs:
        this.say(f"installing {peer.needs} …")
    return peer.prepare()
