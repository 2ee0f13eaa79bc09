"""Compiles the grammars of guided requests on a thread of its own, so that no stream waits for a schema.

Grammars arrive proven: the daemon has compiled each once in its sandbox, within the limits of CPU time and
memory. Principals take turns all the same, because one proven just within them takes seconds again here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from neuron.engine.grammar_matcher import GrammarCompiler, GrammarError, LLGuidanceMatcher
from neuron.fair_queue import FairQueue
from neuron.pipe import AnswerGrammar, Submit

log = logging.getLogger("neuron.worker")

MAX_WAITING = 256  # requests whose grammar is still to be compiled


@dataclass(frozen=True, slots=True)
class CompiledRequest:
    """A request and its matcher, or the reason why there is none."""

    submit: Submit
    matcher: LLGuidanceMatcher | GrammarError


class _Job(NamedTuple):
    submit: Submit
    grammar: AnswerGrammar
    tokenizer_file: Path


class GrammarThread:
    """Methods are for the device's thread; `deliver` is called on the grammar thread."""

    def __init__(self, deliver: Callable[[CompiledRequest], None]) -> None:
        self._deliver = deliver
        self._compilers: dict[Path, GrammarCompiler] = {}
        self._pending: dict[int, _Job] = {}
        self._has_jobs = threading.Condition()
        self._jobs: FairQueue[_Job] = FairQueue(MAX_WAITING)  # under the condition's lock
        self._thread: threading.Thread | None = None

    def enqueue(self, submit: Submit, grammar: AnswerGrammar, tokenizer_file: Path) -> Submit | None:
        """Have `submit` delivered once its grammar is compiled.

        Return the request that is not, because too many wait: it, or one of a principal with more of them.
        """
        job = _Job(submit, grammar, tokenizer_file)
        self._pending[submit.id] = job
        with self._has_jobs:
            dropped = self._jobs.push(submit.principal, job)
            self._has_jobs.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        return None if dropped is None else self._pending.pop(dropped.submit.id).submit

    def pop(self, request_id: int) -> Submit | None:
        """Return a pending request, which is pending no longer; None when it is not pending."""
        job = self._pending.pop(request_id, None)
        if job is None:
            return None
        with self._has_jobs:
            self._jobs.discard(job.submit.principal, job)
        return job.submit

    def pop_all(self) -> list[Submit]:
        """Return all pending requests, which are pending no longer."""
        return [submit for number in tuple(self._pending) if (submit := self.pop(number))]

    def _run(self) -> None:
        while True:
            with self._has_jobs:
                self._has_jobs.wait_for(lambda: len(self._jobs))
                job = self._jobs.pop()
            self._deliver(CompiledRequest(job.submit, self._compile(job)))

    def _compile(self, job: _Job) -> LLGuidanceMatcher | GrammarError:
        file = job.tokenizer_file
        compiler = self._compilers.setdefault(file, GrammarCompiler(file))
        try:
            return compiler.compile(job.grammar.lark, job.grammar.end_ids)
        except GrammarError as error:
            return error
        except BaseException as error:  # a panic in native code is no Exception; the thread goes on
            log.exception("compiling a grammar failed")
            return GrammarError(f"compiling it failed: {type(error).__name__}")
