"""Compiles the grammars of guided requests on a thread of its own, so that no stream waits for a schema."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron.engine.grammar_matcher import GrammarError, Grammars, MatcherGuide
from neuron.pipe import Guide, Submit

MAX_PENDING = 256  # requests whose grammar is still to be compiled


@dataclass(frozen=True, slots=True)
class Compiled:
    """A request that is ready for its scheduler, or the reason why it never will be."""

    submit: Submit
    guide: MatcherGuide | GrammarError


class Compiler:
    """`begin` and the ends are the device thread's; `deliver` is called on the compiler's own."""

    def __init__(self, deliver: Callable[[Compiled], None]) -> None:
        self._deliver = deliver
        self._grammars: dict[Path, Grammars] = {}
        self._wishes: queue.SimpleQueue[tuple[Submit, Guide, Path]] = queue.SimpleQueue()
        self._pending: dict[int, Submit] = {}
        self._thread: threading.Thread | None = None

    def begin(self, submit: Submit, guide: Guide, tokenizer_file: Path) -> bool:
        """Have `submit` delivered once its guide is there; False when too many are waiting for that."""
        if len(self._pending) >= MAX_PENDING:
            return False
        self._pending[submit.id] = submit
        self._wishes.put((submit, guide, tokenizer_file))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        return True

    def end(self, request: int) -> Submit | None:
        """Wait for the request no longer; None when nobody did."""
        return self._pending.pop(request, None)

    def end_all(self) -> list[Submit]:
        """The same for every request."""
        ended, self._pending = list(self._pending.values()), {}
        return ended

    def _run(self) -> None:
        while True:
            submit, guide, file = self._wishes.get()
            if submit.id in self._pending:
                self._deliver(Compiled(submit, self._compile(guide, file)))

    def _compile(self, guide: Guide, file: Path) -> MatcherGuide | GrammarError:
        grammars = self._grammars.setdefault(file, Grammars(file))
        try:
            return grammars.guide(guide.grammar, guide.end_ids)
        except GrammarError as error:
            return error
