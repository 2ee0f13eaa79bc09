"""Compiles the grammars of guided requests on a thread of its own, so that no stream waits for a schema."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron.engine.grammar_matcher import GrammarCompiler, GrammarError, LLGuidanceMatcher
from neuron.pipe import AnswerGrammar, Submit

MAX_PENDING = 256  # requests whose grammar is still to be compiled


@dataclass(frozen=True, slots=True)
class CompiledRequest:
    """A request and its matcher, or the reason why there is none."""

    submit: Submit
    matcher: LLGuidanceMatcher | GrammarError


class GrammarThread:
    """Methods are for the device's thread; `deliver` is called on the grammar thread."""

    def __init__(self, deliver: Callable[[CompiledRequest], None]) -> None:
        self._deliver = deliver
        self._compilers: dict[Path, GrammarCompiler] = {}
        self._queue: queue.SimpleQueue[tuple[Submit, AnswerGrammar, Path]] = queue.SimpleQueue()
        self._pending: dict[int, Submit] = {}
        self._thread: threading.Thread | None = None

    def enqueue(self, submit: Submit, grammar: AnswerGrammar, tokenizer_file: Path) -> bool:
        """Have `submit` delivered once its grammar is compiled. Return False when too many wait for that."""
        if len(self._pending) >= MAX_PENDING:
            return False
        self._pending[submit.id] = submit
        self._queue.put((submit, grammar, tokenizer_file))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        return True

    def pop(self, request_id: int) -> Submit | None:
        """Return a pending request, which is pending no longer; None when it is not pending."""
        return self._pending.pop(request_id, None)

    def pop_all(self) -> list[Submit]:
        """Return all pending requests, which are pending no longer."""
        pending = list(self._pending.values())
        self._pending = {}
        return pending

    def _run(self) -> None:
        while True:
            submit, grammar, file = self._queue.get()
            if submit.id in self._pending:
                self._deliver(CompiledRequest(submit, self._compile(grammar, file)))

    def _compile(self, grammar: AnswerGrammar, file: Path) -> LLGuidanceMatcher | GrammarError:
        compiler = self._compilers.setdefault(file, GrammarCompiler(file))
        try:
            return compiler.compile(grammar.lark, grammar.end_ids)
        except GrammarError as error:
            return error
