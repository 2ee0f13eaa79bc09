"""What a grammar costs a decode step: its mask on the host, and the step with and without it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

from bench.engine.serving import Engine, prompt, timed
from bench.gpu.case import Case, LeftOutError
from bench.gpu.lab import Lab
from neuron.device.model_runner import ModelRunner
from neuron.engine.grammar_matcher import GrammarCompiler, LLGuidanceMatcher
from neuron.models.tiny import WEIGHTS_DIR

GRAMMAR = "start: /[a-z ]{600}/"  # as long as an answer can be, and nothing ends it before
TOKENIZER = WEIGHTS_DIR / "tokenizer.json"
END = 0
MASKS = 50


def cases(_: str, lab: Lab) -> Iterator[Case]:
    sides = lab.sides("least" if lab.is_smoke else "0.6B")
    way = lab.ways(sides.decoder)[-1]
    runner = lab.runner(sides.decoder, way)
    grammars = GrammarCompiler(TOKENIZER)
    requests = lab.batches[1]
    yield Case("a mask", "us", "on the host", partial(mask_us, grammars))
    step = partial(step_ms, lab, runner, requests)
    yield Case(f"a step of {requests}", "ms", way.name, partial(step, None))
    yield Case(f"a guided step of {requests}", "ms", way.name, partial(step, grammars))


def mask_us(grammars: GrammarCompiler) -> float:
    """The median of an answer's first tokens: each is accepted, and the mask of the next one computed."""
    matcher, times = _matcher(grammars), []
    for _ in range(MASKS):
        token = _first_of(matcher.allowed)
        started = time.perf_counter()
        failed = matcher.accept_token(token)
        times.append(time.perf_counter() - started)
        assert failed is None
    return 1e6 * statistics.median(times)


def _first_of(allowed: bytes) -> int:
    at = next(index for index, byte in enumerate(allowed) if byte)
    return 8 * at + (allowed[at] & -allowed[at]).bit_length() - 1


def _matcher(grammars: GrammarCompiler) -> LLGuidanceMatcher:
    return grammars.compile(GRAMMAR, [END])


def step_ms(lab: Lab, runner: ModelRunner, requests: int, grammars: GrammarCompiler | None) -> float:
    engine, steps = lab.engine(runner), 4 if lab.is_smoke else 40
    for seed in range(requests):
        engine.submit(prompt(seed, 32), steps + 16, None if grammars is None else _matcher(grammars))
    _reach_decoding(engine, requests)
    return 1e3 * statistics.median(timed(engine.step) for _ in range(steps))


def _reach_decoding(engine: Engine, requests: int) -> None:
    while sum(bool(times) for times in engine.token_times.values()) < requests:
        if not engine.step():
            raise LeftOutError("the grammar ended an answer at once")
