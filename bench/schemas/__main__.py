"""What the guide makes of JSON Schemas, by the official test suite: python -m bench.schemas

Each schema of the suite (drafts 7 and 2020-12, required tests) is checked as a strict one. Where it is taken,
the grammar reads the suite's instances, in any order of keys and with whole numbers spelled either way: a
grammar fixes the order of properties. A schema that takes too long or too much memory counts as refused.

    schemas                 groups of tests, each a schema with its instances
    accepted_share          of the schemas of each keyword, how many are taken: by the suite's files
    accepted                the same of all schemas
    false_admits_required   invalid instances that a grammar admits; must be 0
    false_rejects_required  valid instances that no spelling brings past a grammar
    format_rejects          valid instances of `format`, which the suite has as an annotation and we enforce
    runaways                schemas that had to be stopped
    disagreements           a line for each false admit and reject
    also                    of the schemas in the file that `--also` names, the shares that a strict and a
                            lenient check take; null without it

`--also FILE` reads a JSON object a line, with `name` and `schema`. `python -m bench.schemas.vendor SDIST`
takes the suite out of jsonschema's source distribution. Options and the other keys of the result are those of
`bench.command`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import command
from bench.schemas.judge import Judge

SUITE = Path(__file__).with_name("suite.jsonl")
SMOKE_GROUPS = 40
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


def measure(run: command.Run) -> dict[str, Any]:
    groups = [json.loads(line) for line in SUITE.read_text().splitlines()]
    groups = groups[:: run.pick(1, 1, len(groups) // SMOKE_GROUPS)]
    with Judge() as judge:
        verdicts = [judge.ask(as_sent(group), group["tests"]) for group in groups]
        also = None if run.options.also is None else shares(judge, run.options.also, run)
        runaways = judge.runaways
    return {"schemas": len(groups), **tally(groups, verdicts), "runaways": runaways, "also": also}


def as_sent(group: dict[str, Any]) -> dict[str, Any]:
    """The group's schema as a client sends it: an object, which says its draft where it is an old one."""
    schema = group["schema"]
    if not isinstance(schema, dict):
        return {} if schema else {"not": {}}
    return DRAFT_7 | schema if group["draft"] == "draft7" else schema


def tally(groups: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    total, accepted = Counter[str](), Counter[str]()
    wrong: dict[str, list[str]] = {"admits": [], "rejects": [], "format": []}
    for group, verdict in zip(groups, verdicts, strict=True):
        total[group["keyword"]] += 1
        accepted[group["keyword"]] += verdict["problem"] is None
        for test, is_admitted in zip(group["tests"], verdict["admitted"], strict=False):
            if test["valid"] != is_admitted:
                kind = "admits" if is_admitted else "format" if group["keyword"] == "format" else "rejects"
                place = f"{group['draft']} {group['keyword']}: {group['description']}"
                wrong[kind].append(f"{kind}: {place}: {test['description']}")
    return {
        "accepted_share": {name: accepted[name] / total[name] for name in sorted(total)},
        "accepted": sum(accepted.values()) / sum(total.values()),
        "false_admits_required": len(wrong["admits"]),
        "false_rejects_required": len(wrong["rejects"]),
        "format_rejects": len(wrong["format"]),
        "disagreements": wrong["admits"] + wrong["rejects"],
    }


def shares(judge: Judge, file: Path, run: command.Run) -> dict[str, Any]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    taken = Counter[str]()
    for each in found:
        for mode in ("strict", "lenient"):
            problem = judge.ask(each["schema"], [], is_strict=mode == "strict")["problem"]
            taken[mode] += problem is None
            if problem is not None:
                run.say(f"{mode}: {each['name']}: {problem[:200]}")
    return {"schemas": len(found), **{mode: taken[mode] / len(found) for mode in ("strict", "lenient")}}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--also", type=Path, metavar="FILE", help="schemas to count beside the suite's")


def show(result: dict[str, Any]) -> Iterable[str]:
    for keyword, share in result["accepted_share"].items():
        yield f"{keyword:28}{share:7.0%}"
    yield from result["disagreements"]
    names = (
        "accepted",
        "false_admits_required",
        "false_rejects_required",
        "format_rejects",
        "runaways",
        "also",
    )
    yield from (f"{name:28}{result[name]}" for name in names)


if __name__ == "__main__":
    command.run("schemas", __doc__, measure, add_options=add_options, show=show)
