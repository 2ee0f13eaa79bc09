"""Every architecture of the installed transformers, tiny and random: python -m bench.families

Each is compared with `generate`, in a process of its own for two minutes at most: prompts of three lengths in
one batch, cut into chunks, again from the prefix cache, and for a next turn. Embeddings are compared by their
cosine, scores of pairs by their difference. What is known is kept in build/families-KIND.jsonl, so that a run
that was stopped goes on where it was, and those that timed out are tried again. In full, the lists of
neuron/models/FAMILIES.md are written anew, those of `--kinds` alone if some are named.

    equal, differs, refused         architectures by kind: causal, image-text, embedding, ranking; no variants
    crashed, not_built, timed_out   the same
    runs                            for each architecture and variant: kind, label, result, detail

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import command
from bench.families.catalogue import KINDS, PICKED, SMOKE, VARIANTS, Case, every_case, picked
from bench.families.check import Verdict, check

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build"
LIST = ROOT / "neuron" / "models" / "FAMILIES.md"
LIMIT_S, FULL_S = 120.0, 1800.0
TIMED_OUT = "timed out"
RESULTS = ("equal", "differs", "refused", "crashed", "not built", TIMED_OUT)

INTRODUCTION = """\
# Families

What `python -m bench.families` found with transformers {}: each architecture, made tiny and random, in
float32 on a CPU. *Equal* means that every token is the one of `generate`, in batches, in chunks, from the
prefix cache and in a next turn, or that embeddings agree. *Refused* models are not loaded, for the reason
given. *Not built* are those that transformers itself does not build or run this way. Image-text models are
run on text and on generated pictures, in one batch; *refused: images* are those that run on text alone.
Vectors and scores agree to within 1e-5, of cosines and of scores. Encoders, and models with one, are built as
the decoder that transformers has of them, where it has one: *built with is_decoder*. Both sides draw
greedily, with a penalty for repetition. Written by the benchmark; do not edit.

What runs a model: *FusedDecoder* is our own; *TransformersDecoder* transformers' layers over our attention, a
whole batch at once; *CachedDecoder* and *RecurrentDecoder* transformers' model over our pages or slots, one
sequence after another; *RecomputingDecoder* reads the whole text anew for each token.
"""

Row = dict[str, str]


def measure(run: command.Run) -> dict[str, Any]:
    kinds = run.options.kinds
    every = run.pick(every_case(), picked(PICKED), picked(SMOKE))
    cases = [case for case in every if case.kind in kinds]
    known: dict[tuple[str, str], Row] = {}
    if run.size is not command.Size.SMOKE and not run.options.again:
        known = {key: row for kind in kinds for key, row in read(kept(kind)).items()}
    rows: list[Row] = []
    for case in cases:
        row = known.get((case.kind, case.label))
        if row is None:
            if not run.budget.allows(f"{case.kind} {case.label}"):
                continue
            result, detail = alone(case)
            row = {"kind": case.kind, "label": case.label, "result": result, "detail": detail}
            if run.size is not command.Size.SMOKE and result != TIMED_OUT:  # a busy machine's is no finding
                keep(kept(case.kind), row)
        rows.append(row)
        run.say(" | ".join(row.values()))
    if run.size is command.Size.FULL and len(rows) == len(cases):
        others = [row for row in listed(LIST) if row["kind"] not in kinds]
        LIST.write_text("\n".join(listing([*rows, *others])) + "\n")
    return {result.replace(" ", "_"): counts(rows, result) for result in RESULTS} | {"runs": rows}


def counts(rows: Iterable[Row], result: str) -> dict[str, int]:
    """The architectures with this result by kind, variants aside."""
    found = [row["kind"] for row in rows if row["result"] == result and row["label"] not in VARIANTS]
    return {kind: found.count(kind) for kind in KINDS}


# --- one process each -------------------------------------------------------------------------------------


def alone(case: Case) -> tuple[str, str]:
    """The result and detail of a check in a process of its own, which is a copy of this one."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, case))
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT_S):
            return TIMED_OUT, f"after {LIMIT_S:.0f} s"
        verdict: Verdict = ours.recv()
    except EOFError:
        process.join()
        return "crashed", f"its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return verdict.result, verdict.detail


def _report(pipe: Connection, case: Case) -> None:
    for stream in (1, 2):  # what transformers says of tiny models
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    pipe.send(check(case))


# --- files ------------------------------------------------------------------------------------------------


def kept(kind: str) -> Path:
    return KEPT / f"families-{kind}.jsonl"


def listed(path: Path) -> list[Row]:
    """The rows of a FAMILIES.md."""
    rows: list[Row] = []
    kind = ""
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("## "):
            kind = line[3:].lower()
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if kind in KINDS and line.startswith("| ") and len(cells) == 3 and cells[1] in RESULTS:
            rows.append({"kind": kind, "label": cells[0], "result": cells[1], "detail": cells[2]})
    return rows


def read(path: Path) -> dict[tuple[str, str], Row]:
    """What earlier runs with this release of transformers found."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    mine = (line["row"] for line in lines if line["transformers"] == transformers.__version__)
    return {(row["kind"], row["label"]): row for row in mine}


def keep(path: Path, row: Row) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        print(json.dumps({"transformers": transformers.__version__, "row": row}), file=file)


def listing(rows: list[Row]) -> Iterator[str]:
    """The lines of FAMILIES.md."""
    yield from INTRODUCTION.format(transformers.__version__).splitlines()
    yield ""
    yield "| kind | " + " | ".join(RESULTS) + " |"
    yield "| --- |" + " --- |" * len(RESULTS)
    for kind in KINDS:
        yield f"| {kind} | " + " | ".join(str(counts(rows, result)[kind]) for result in RESULTS) + " |"
    for kind in KINDS:
        yield from ("", f"## {kind.capitalize()}", "", "| architecture | result | |", "| --- | --- | --- |")
        for row in rows:
            if row["kind"] == kind:
                yield f"| {row['label']} | {row['result']} | {row['detail'].replace('|', '/')} |"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--again", action="store_true", help="forget what earlier runs found")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    command.run("families", __doc__, measure, full_s=FULL_S, add_options=add_options)
