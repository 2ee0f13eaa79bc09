"""The real worker process, from the daemon's end of the pipe."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import torch

from neuron.pipe import (
    EXIT_POISONED,
    Cancel,
    Finished,
    Loaded,
    LoadFailed,
    LoadProgress,
    Refused,
    Sampling,
    Shutdown,
    Status,
    Submit,
    Tokens,
    Unload,
    Unloaded,
)
from tests.device.daemon import DEADLINE_S, Daemon
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import save

LONG = 400
IDLE_RSS_BYTES = 900 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker for all tests that leave it as it was."""
    with Daemon("--max-running", "4", "--step-tokens", "16", "--memory-mb", "2000") as started:
        yield started
        assert started.process.poll() is None


@pytest.fixture
def loaded(daemon: Daemon, llama: Path) -> Iterator[Daemon]:
    daemon.seen.clear()
    assert isinstance(daemon.load(llama), Loaded)
    yield daemon
    daemon.send(Unload("m"))
    daemon.wait_for(Unloaded)


def test_ready_names_process_thread_and_memory(daemon: Daemon):
    assert daemon.ready.pid == daemon.process.pid
    assert daemon.ready.thread == "cpu-dev-0"
    assert daemon.ready.memory_total_mb == 2000
    threads = Path(f"/proc/{daemon.process.pid}/task").glob("*/comm")
    assert "cpu-dev-0" in {comm.read_text().strip() for comm in threads}


# Runs a worker as on a machine with neuron's engine, torch, transformers and a few wheels alone.
_BARE = """
import runpy, sys

class Missing:
    names = {"celery", "cortex_site", "django", "fleet", "ninja", "pydantic_settings", "uvicorn"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
runpy.run_module("neuron.worker", run_name="__main__", alter_sys=True)
"""


def test_a_worker_needs_none_of_the_projects_other_packages(llama: Path):
    with Daemon(program=("-c", _BARE)) as daemon:
        assert isinstance(daemon.load(llama), Loaded)
        daemon.submit(1, prompt(1, 30))
        assert daemon.text(1) == texts(decoder(llama), {1: prompt(1, 30)})[1][:8]


def timeless(end: Finished | Refused) -> Finished:
    """The end of a request that ran as soon as it was there, without the time it waited."""
    assert isinstance(end, Finished)
    assert 0 <= end.queue_s < DEADLINE_S
    return msgspec.structs.replace(end, queue_s=0.0)


def test_load_run_unload(daemon: Daemon, llama: Path):
    daemon.seen.clear()
    result = daemon.load(llama)
    assert isinstance(result, Loaded)
    assert result.context == 512
    assert result.memory_mb > 0
    fractions = [message.fraction for message in daemon.seen if isinstance(message, LoadProgress)]
    assert fractions == sorted(fractions)
    assert len(fractions) > 5
    daemon.submit(1, prompt(1, 30))
    assert timeless(daemon.end(1)) == Finished(1, "length", 30, 8, 0)
    assert daemon.text(1) == texts(decoder(llama), {1: prompt(1, 30)})[1][:8]
    daemon.send(Unload("m"))
    daemon.wait_for(Unloaded)
    daemon.submit(2, prompt(1, 30))
    assert daemon.end(2).code == "model_unloaded"  # type: ignore[union-attr]
    assert psutil.Process(daemon.process.pid).memory_info().rss < IDLE_RSS_BYTES


def test_loading_a_loaded_model_succeeds(loaded: Daemon, llama: Path):
    assert isinstance(loaded.load(llama), Loaded)


def test_concurrent_requests_get_their_own_texts(loaded: Daemon, llama: Path):
    prompts = {number: prompt(number, 5 + number) for number in range(10, 22)}
    for number, tokens in prompts.items():
        loaded.submit(number, tokens, 24)
    assert {number: loaded.text(number) for number in prompts} == texts(decoder(llama), prompts)


def test_cancel_ends_a_request_and_frees_its_pages(loaded: Daemon):
    loaded.submit(30, prompt(1, 50), LONG)
    loaded.wait_for(Tokens)
    assert loaded.cancel(30).reason == "cancelled"
    status = loaded.wait_for(Status, lambda s: bool(s.models) and not s.models[0].running)
    assert status.models[0].kv_pages_free == status.models[0].kv_pages_total
    loaded.send(Cancel(31))  # an unknown number does no harm
    loaded.submit(32, prompt(1, 5))
    assert timeless(loaded.end(32)) == Finished(32, "length", 5, 8, 0)


def test_unload_ends_its_requests(daemon: Daemon, llama: Path):
    assert isinstance(daemon.load(llama), Loaded)
    for number in range(40, 46):
        daemon.submit(number, prompt(1, 20), LONG)
    daemon.wait_for(Tokens)
    daemon.send(Unload("m"))
    ends = [daemon.end(number) for number in range(40, 46)]
    assert {(end.status, end.code) for end in ends if isinstance(end, Refused)} == {(503, "model_unloaded")}
    daemon.wait_for(Unloaded)


def test_two_models_run_side_by_side(loaded: Daemon, tmp_path: Path):
    other = save(tmp_path / "other", "qwen3")
    loaded.submit(50, prompt(1, 20), LONG)
    assert isinstance(loaded.load(other, "other"), Loaded)
    loaded.submit(51, prompt(2, 20), 24, model="other")
    assert loaded.text(51) == texts(decoder(other), {51: prompt(2, 20)})[51]
    assert isinstance(loaded.end(50), Finished)
    loaded.send(Unload("other"))
    loaded.wait_for(Unloaded)


def test_streams_flow_while_another_model_loads(loaded: Daemon, tmp_path: Path):
    other = save(tmp_path / "other", "llama", num_hidden_layers=12)
    loaded.submit(60, prompt(1, 20), LONG)
    loaded.wait_for(Tokens)
    start = len(loaded.seen)
    assert isinstance(loaded.load(other, "other"), Loaded)
    assert sum(isinstance(message, Tokens) for message in loaded.seen[start:]) > 50
    loaded.cancel(60)
    loaded.send(Unload("other"))
    loaded.wait_for(Unloaded)


def test_a_broken_directory_leaves_the_worker_healthy(loaded: Daemon, tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    for path, code in ((tmp_path, "model_broken"), (tmp_path / "none", "model_not_found")):
        result = loaded.load(path, "broken")
        assert isinstance(result, LoadFailed)
        assert (result.model, result.code) == ("broken", code)
        assert str(path) in result.message
    loaded.submit(70, prompt(1, 5))
    assert isinstance(loaded.end(70), Finished)


def test_an_idle_worker_sends_heartbeats(daemon: Daemon):
    daemon.wait_for(Status)
    started = time.monotonic()
    daemon.wait_for(Status)
    daemon.wait_for(Status)
    assert time.monotonic() - started < 30


def test_a_prompt_past_the_context_is_refused_with_the_numbers(loaded: Daemon):
    loaded.submit(80, [5] * 600)
    end = loaded.end(80)
    assert isinstance(end, Refused)
    assert (end.status, end.code) == (400, "context_length_exceeded")
    assert "512 tokens" in end.message
    assert "600 tokens" in end.message


# --- ends -----------------------------------------------------------------------------------------------


def test_shutdown_answers_running_requests_and_exits(llama: Path):
    with Daemon() as daemon:
        daemon.load(llama)
        daemon.submit(1, prompt(1, 20), LONG)
        daemon.wait_for(Tokens)
        daemon.send(Shutdown())
        assert daemon.end(1).code == "shutting_down"  # type: ignore[union-attr]
        assert daemon.process.wait(20) == 0


def test_a_closed_pipe_ends_the_worker_at_work(llama: Path):
    with Daemon() as daemon:
        daemon.load(llama)
        daemon.submit(1, prompt(1, 20), LONG)
        daemon.wait_for(Tokens)
        daemon.socket.close()
        assert daemon.process.wait(20) == 0


def test_a_poisoned_device_answers_and_exits(tmp_path: Path):
    def break_token_99(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[99] = float("nan")  # type: ignore[operator]

    with Daemon() as daemon:
        assert isinstance(daemon.load(save(tmp_path / "model", edit=break_token_99)), Loaded)
        daemon.submit(3, [5, 6], 1)
        assert isinstance(daemon.end(3), Finished)
        requests = {1: [5, 6], 2: [5, 99]}
        daemon.send(*(Submit(n, "m", tokens, LONG, Sampling(), []) for n, tokens in requests.items()))
        for number in (1, 2):
            end = daemon.end(number)
            assert isinstance(end, Refused)
            assert (end.status, end.code) == (503, "engine_error")
            assert "not numbers" in end.message
        assert daemon.process.wait(20) == EXIT_POISONED


def test_weights_that_never_give_numbers_fail_their_requests_alone(tmp_path: Path):
    def break_norm(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.get_submodule("model.norm").weight.fill_(float("nan"))  # type: ignore[operator, union-attr]

    with Daemon() as daemon:
        broken = save(tmp_path / "model", edit=break_norm)
        assert isinstance(daemon.load(broken), Loaded)
        for number in (1, 2):
            daemon.submit(number, [5, 6], 4)
            end = daemon.end(number)
            assert isinstance(end, Refused)
            assert f"{broken}: its weights give logits that are not numbers" in end.message
        assert daemon.process.poll() is None


_PARENT = """
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
command = [sys.executable, "-m", "neuron.worker", "--device", "cpu:0", "--threads", "1"]
child = subprocess.Popen([*command, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno(), ours.fileno()])
holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[ours.fileno()])
ours.recv(1)
print(child.pid, holder.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_parent_even_if_another_process_holds_the_pipe():
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker, holder = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
        parent.kill()
    try:
        wait_until_dead(worker)
    finally:
        holder.kill()


def wait_until_dead(process: psutil.Process) -> None:
    """An orphan may stay a zombie where no init reaps it."""
    deadline = time.monotonic() + DEADLINE_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
