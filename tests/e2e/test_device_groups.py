"""A model on two workers, each of which is killed in each phase; another model there stays or comes back.

There are two such groups, and what is done to rank 0 of one is done to rank 1 of the other at the same time:
most of what a test takes is the start of another worker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from neuron.models.tiny import load_handbook
from tests.neuron.test_tiny import ENTRIES, PATIENCE_S, serving

ENTRY = ENTRIES["plain"][0]
INSIDE_S = 0.5  # for a request to have come as far as it can beside a stopped rank


@dataclass(frozen=True)
class Pair:
    """A model on two devices, and one on the first of them alone."""

    model: str
    devices: list[int]
    neighbour: str
    victim: int  # the rank that something happens to

    @property
    def load(self) -> dict[str, Any]:
        return {"model_id": self.model, "source": "helexa-tiny", "devices": self.devices}

    def pids(self, node) -> list[int]:
        devices = node.get("/health").json()["devices"]
        return [devices[index]["pid"] for index in self.devices]


WEST, EAST = Pair("west", [0, 1], "helexa-tiny", 0), Pair("east", [2, 3], "neighbour", 1)
NEIGHBOUR = {"model_id": "neighbour", "source": "helexa-tiny", "devices": [2]}


def on_both(node, phase: Callable[[httpx.Client, Pair], None]) -> None:
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(phase, node, pair) for pair in (WEST, EAST)]:
            done.result()


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[httpx.Client]:
    """A neuron with four CPU devices, which has both pairs and their neighbours."""
    with serving(tmp_path_factory.mktemp("neuron"), "cpu_devices = 4\n") as client:
        daemon = psutil.Process(client.get("/health").json()["pid"])
        for load in (WEST.load, EAST.load, NEIGHBOUR):
            assert client.post("/models/load", json=load, timeout=PATIENCE_S).status_code == 200
        yield client
        workers = daemon.children(recursive=True)
    gone, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert gone
    assert not alive


def state(node, model_id: str) -> str | None:
    return next((each["state"] for each in node.get("/models").json() if each["id"] == model_id), None)


def chat(node, model_id: str, question: str = ENTRY.question) -> httpx.Response:
    body = {"model": model_id, "messages": [{"role": "user", "content": question}]}
    return node.post("/v1/chat/completions", json=body, timeout=PATIENCE_S)


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def groups_in(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:neuron-group")


def check_recovered(node, pair: Pair, before: list[int]) -> None:
    """The group works again, the other rank's process is the same and holds no other group's memory."""
    rank = pair.victim
    wait_for(lambda: pair.pids(node)[rank] not in {before[rank], None})
    if state(node, pair.model) != "loaded":
        wait_for(lambda: state(node, pair.model) in {"loaded", "failed", None})
        if state(node, pair.model) != "loaded":
            assert node.post("/models/load", json=pair.load, timeout=PATIENCE_S).status_code == 200
    wait_for(lambda: state(node, pair.neighbour) == "loaded")
    after = pair.pids(node)
    assert after[1 - rank] == before[1 - rank]
    assert after[rank] != before[rank]
    assert [groups_in(pid) for pid in after] == [1, 1]
    for model_id in (pair.model, pair.neighbour):
        assert chat(node, model_id).json()["choices"][0]["message"]["content"] == ENTRY.answer


def killed_while_it_loads(node, pair: Pair) -> None:
    node.post("/models/unload", json={"model_id": pair.model})
    before = pair.pids(node)
    with ThreadPoolExecutor() as threads:
        with stopped(before[1 - pair.victim]):  # so that the load cannot end
            load = threads.submit(node.post, "/models/load", json=pair.load, timeout=PATIENCE_S)
            wait_for(lambda: is_loading(node, pair.model))
            os.kill(before[pair.victim], signal.SIGKILL)
        failed = load.result()
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "worker_lost")
    assert state(node, pair.model) == "failed"
    check_recovered(node, pair, before)


def is_loading(node, model_id: str) -> bool:
    return any(each["progress"] for each in node.get("/models").json() if each["id"] == model_id)


def killed_in_prefill(node, pair: Pair) -> None:
    before = pair.pids(node)
    with ThreadPoolExecutor() as threads:
        with stopped(before[1 - pair.victim]):  # rank 0 waits for it, or it waits for rank 0
            asked = threads.submit(chat, node, pair.model)
            time.sleep(INSIDE_S)
            os.kill(before[pair.victim], signal.SIGKILL)
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
    check_recovered(node, pair, before)


def killed_in_decode(node, pair: Pair) -> None:
    before = pair.pids(node)
    lines = stream_until_first_token(node, pair.model, lambda: os.kill(before[pair.victim], signal.SIGKILL))
    assert '"worker_lost"' in lines[-1]
    assert "data: [DONE]" not in lines
    check_recovered(node, pair, before)


def killed_while_it_unloads(node, pair: Pair) -> None:
    before = pair.pids(node)
    with ThreadPoolExecutor() as threads:
        with stopped(before[1 - pair.victim]):
            unload = threads.submit(
                node.post, "/models/unload", json={"model_id": pair.model}, timeout=PATIENCE_S
            )
            time.sleep(INSIDE_S)
            os.kill(before[pair.victim], signal.SIGKILL)
        assert unload.result().status_code == 200
    assert state(node, pair.model) is None
    check_recovered(node, pair, before)


@pytest.mark.parametrize(
    "phase", [killed_while_it_loads, killed_in_prefill, killed_in_decode, killed_while_it_unloads]
)
def test_either_rank_may_be_killed_at_any_time(node, phase):
    on_both(node, phase)


def test_a_rank_that_hangs_is_replaced(node):
    before = EAST.pids(node)
    started = time.monotonic()
    lines = stream_until_first_token(node, EAST.model, lambda: os.kill(before[1], signal.SIGSTOP))
    assert "rank 1 did not answer" in lines[-1]
    assert time.monotonic() - started < PATIENCE_S
    check_recovered(node, EAST, before)


def test_the_handbook_is_answered_word_for_word(node):
    plain = [entry for entry in load_handbook().entries if not entry.reasoning and not entry.tool][:5]
    for entry in plain:
        answer = chat(node, WEST.model, entry.question).json()
        assert answer["choices"][0]["message"]["content"] == entry.answer


def stream_until_first_token(node, model_id: str, then: Callable[[], object]) -> list[str]:
    """The lines of a long answer; `then` is called after its first token."""
    body = {"model": model_id, "messages": [{"role": "user", "content": "Count."}], "stream": True}
    body |= {"ignore_eos": True, "max_tokens": 5000, "min_tokens": 5000}
    lines: list[str] = []
    is_begun = False
    with node.stream("POST", "/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data:"):
                lines.append(line)
            if '"content":"' in line.replace(" ", "") and not is_begun:
                is_begun = True
                then()
    return lines
