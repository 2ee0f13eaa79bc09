from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from neuron.engine.grammar_matcher import GrammarError
from neuron.pipe import AnswerGrammar, Sampling, Submit
from neuron.worker import grammar_thread
from neuron.worker.grammar_thread import CompiledRequest, GrammarThread

FILE = Path("tokenizer.json")


class NativePanic(BaseException):
    """What a panic in native code becomes."""


class GatedCompiler:
    """A compiler that goes on when the gate opens, and panics at one grammar."""

    gate = threading.Event()
    begun = threading.Event()

    def __init__(self, _: Path) -> None:
        pass

    def compile(self, grammar: str, end_ids: Any) -> Any:
        self.begun.set()
        self.gate.wait(timeout=60)
        if grammar == "panic":
            raise NativePanic
        return grammar


class Requests:
    """Requests and what becomes of them; the first is being compiled and holds the thread."""

    def __init__(self) -> None:
        self.delivered: queue.SimpleQueue[CompiledRequest] = queue.SimpleQueue()
        self.thread = GrammarThread(self.delivered.put)
        self.enqueue(0, "holder")
        GatedCompiler.begun.wait(timeout=60)

    def enqueue(self, number: int, principal: str, grammar: str = "g") -> Submit | None:
        guide = AnswerGrammar(grammar, [0])
        submit = Submit(number, "m", [1], 9, Sampling(), [0], grammar=guide, principal=principal)
        return self.thread.enqueue(submit, guide, FILE)

    def finish(self, count: int) -> list[CompiledRequest]:
        GatedCompiler.gate.set()
        return [self.delivered.get(timeout=60) for _ in range(count)]


@pytest.fixture
def requests(monkeypatch) -> Requests:
    monkeypatch.setattr(grammar_thread, "GrammarCompiler", GatedCompiler)
    monkeypatch.setattr(grammar_thread, "MAX_WAITING", 3)
    GatedCompiler.gate.clear()
    GatedCompiler.begun.clear()
    return Requests()


def test_principals_take_turns(requests):
    for number, principal in enumerate(["a", "a", "b"], start=1):
        assert requests.enqueue(number, principal) is None
    assert [compiled.submit.id for compiled in requests.finish(4)] == [0, 1, 3, 2]


def test_who_has_most_waiting_gives_way_when_too_many_wait(requests):
    for number in (1, 2, 3):
        requests.enqueue(number, "a")
    refused = [requests.enqueue(4, "a"), requests.enqueue(5, "b")]
    assert [submit.id for submit in refused if submit] == [4, 3]
    assert requests.thread.pop(3) is None  # it is pending no longer
    assert [compiled.submit.id for compiled in requests.finish(4)] == [0, 1, 5, 2]


def test_a_cancelled_request_is_not_compiled_and_leaves_its_room(requests):
    for number in (1, 2, 3):
        requests.enqueue(number, "a")
    assert requests.thread.pop(2).id == 2
    assert requests.enqueue(4, "a") is None
    assert [compiled.submit.id for compiled in requests.finish(4)] == [0, 1, 3, 4]


def test_a_panic_of_the_compiler_refuses_its_request_and_no_other(requests, caplog):
    requests.enqueue(1, "a", "panic")
    requests.enqueue(2, "a")
    _, failed, after = requests.finish(3)
    assert isinstance(failed.matcher, GrammarError)
    assert after.matcher == "g"


def test_all_pending_requests_are_told_at_the_end(requests):
    requests.enqueue(1, "a")
    assert sorted(submit.id for submit in requests.thread.pop_all()) == [0, 1]
    assert requests.thread.pop_all() == []
    requests.finish(1)
