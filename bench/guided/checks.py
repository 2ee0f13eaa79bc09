"""What it costs to check a schema and its grammar in the sandbox before a worker compiles it once more."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from bench.guided.walk import CASES
from neuron.config import SandboxSettings
from neuron.engine.grammar_matcher import GrammarCompiler
from neuron.engine.grammar_trial import grammar_problem
from neuron.sandbox.sandbox import Sandbox
from neuron.sandbox.verdicts import Verdicts
from neuron.text.json_schema.check import check_schema
from neuron.text.schema import Schema

END_IDS = (0,)


def measured(path: Path, vocab_size: int, rounds: int) -> dict[str, Any]:
    """Milliseconds by schema, and those of starting a process with its first check."""
    return asyncio.run(_measured(path, vocab_size, rounds))


async def _measured(path: Path, vocab_size: int, rounds: int) -> dict[str, Any]:
    sandbox = Sandbox(SandboxSettings(processes=1))
    verdicts = Verdicts(sandbox)
    compiler = GrammarCompiler(path)
    start_ms = await _ms(_checked(verdicts, {}))
    figures: dict[str, Any] = {"start_ms": start_ms}
    await _tried(verdicts, _grammar({}), vocab_size)  # makes the sandbox's tokenizer
    compiler.compile(_grammar({}), END_IDS)
    for case, (schema, _) in CASES.items():
        new = [_varied(schema, index) for index in range(rounds)]
        figures[case] = {
            "schema_ms": await _median([_checked(verdicts, one) for one in new]),
            "grammar_ms": await _median([_tried(verdicts, _grammar(one), vocab_size) for one in new]),
            "known_ms": await _median([_tried(verdicts, _grammar(one), vocab_size) for one in new]),
            "worker_ms": statistics.median(_compile_ms(compiler, _grammar(one)) for one in new),
        }
    await sandbox.close()
    return figures


def _varied(schema: Schema, index: int) -> Schema:
    """`schema`, or a constant that no other schema allows."""
    root = {key: value for key, value in schema.items() if key != "$defs"}
    return {"$defs": schema.get("$defs", {}), "anyOf": [root, {"const": f"round {index}"}]}


async def _checked(verdicts: Verdicts, schema: Schema) -> None:
    checked = await verdicts.ask("", check_schema, schema, is_strict=True)
    assert checked.problem is None, checked.problem


async def _tried(verdicts: Verdicts, grammar: str, vocab_size: int) -> None:
    problem = await verdicts.ask("", grammar_problem, grammar, END_IDS, vocab_size)
    assert problem is None, problem


def _grammar(schema: Any) -> str:
    return "start: %json " + json.dumps(schema)


async def _median(checks: Sequence[Awaitable[None]]) -> float:
    return statistics.median([await _ms(check) for check in checks])


async def _ms(check: Awaitable[None]) -> float:
    started = time.perf_counter()
    await check
    return 1e3 * (time.perf_counter() - started)


def _compile_ms(compiler: GrammarCompiler, grammar: str) -> float:
    started = time.perf_counter()
    compiler.compile(grammar, END_IDS)
    return 1e3 * (time.perf_counter() - started)
