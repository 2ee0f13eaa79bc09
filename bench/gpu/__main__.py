# ruff: noqa: E402 - as a folder it starts again as a package
"""The `gpu` tests and the engine's measurements on this machine's CUDA device, within 8 minutes.

Usage:

    python -m bench.gpu
        on a machine with the project's environment
    python bench/gpu --wheels DIR
        on a bare machine, which has Python 3.12, torch from 2.11 on, transformers and pytest
    python -m bench.gpu collect DIR
        downloads the wheels that such a machine needs beside it
    python -m bench.gpu --device cpu --smoke
        a dry run: the same code, tiny shapes, no GPU

Each result is a line of JSON in the file of `--results` as soon as it is known; a table comes last, and the
status is 1 if anything failed. Weights are random, of the shapes of Qwen3-0.6B and 4B, made on the device.

    device     the facts about it and its software
    counts     how many results passed, failed and were left out
    failed     what failed, and why
    left_out   what was not measured, and why
    keep_as    a file name to keep the results under
    runs       every result

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if not __package__:  # `python bench/gpu`: the folder's own modules must not be found under their bare names
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    program = [sys.executable, "-m", "bench.gpu", *sys.argv[1:]]
    os.execve(sys.executable, program, os.environ | {"PYTHONPATH": path})  # noqa: S606

from bench import command
from bench.gpu.conductor import PARTS, Conductor
from bench.gpu.results import Journal, Result, failed, left_out, table
from bench.gpu.wheels import WheelError, collect, install

MINUTES = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cuda:N or cpu (default: cuda:0, with --smoke cpu)")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install what is missing from there")
    parser.add_argument("--results", type=Path, metavar="FILE", default=ROOT / "build" / "gpu.jsonl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")


def measure(run: command.Run) -> dict[str, Any]:
    options = run.options
    with tempfile.TemporaryDirectory(prefix="cx-") as name:
        site = Path(name)
        try:
            install(options.wheels, site)
        except WheelError as error:
            raise SystemExit(str(error)) from error
        journal = Journal(options.results)
        device = options.device or run.pick("cuda:0", "cuda:0", "cpu")
        of_all = [f"--device={device}", *(["--smoke"] if options.smoke else [])]
        whole = dict.fromkeys(PARTS, run.budget.seconds)  # a dry run takes as long as it takes
        slices = run.pick(PARTS, PARTS, whole)
        conductor = Conductor(journal, run.budget, run.say, sites=[ROOT, site], slices=slices, options=of_all)
        conductor.run(options.parts)
        journal.close()
    results = journal.results
    counts = {"passed": True, "failed": False, "left out": None}
    facts = {result.name: result.note or result.value for result in results if result.part == "device"}
    return {
        "device": facts,
        "counts": {name: sum(result.ok is ok for result in results) for name, ok in counts.items()},
        "failed": failed(results),
        "left_out": left_out(results),
        "keep_as": f"bench/results/gpu-{_slug(facts)}.jsonl",
        "runs": [asdict(result) for result in results],
    }


def _slug(facts: dict[str, Any]) -> str:
    name, version = (str(facts.get(key, "unknown")).partition(",")[0] for key in ("name", "torch"))
    return re.sub(r"[^a-z0-9.]+", "-", f"{name}-torch-{version}".lower()).strip("-")


def _show(result: dict[str, Any]) -> Iterator[str]:
    yield from table([Result(**run) for run in result["runs"]])
    counts = ", ".join(f"{count} {name}" for name, count in result["counts"].items())
    yield f"{counts}; keep the results as {result['keep_as']}"


def main() -> None:
    if sys.argv[1:2] == ["collect"]:
        for wheel in collect(Path(sys.argv[2])):
            print(f"{wheel.stat().st_size >> 10:6} KiB  {wheel}")
        return
    result = command.run("gpu", __doc__, measure, full_s=60.0 * MINUTES, add_options=add_options, show=_show)
    raise SystemExit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
