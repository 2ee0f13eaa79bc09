"""The device thread's turns without device or process: pool, channel and clock are scripted."""

from __future__ import annotations

import itertools
import json
import queue
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.checkpoint import ModelLoadError
from neuron.pipe import (
    HEARTBEAT_S,
    STATUS_INTERVAL_S,
    AnswerGrammar,
    AskMemory,
    Cancel,
    Embed,
    Embedded,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Memory,
    Ready,
    Refused,
    ResetCache,
    Sampling,
    Shutdown,
    Status,
    Submit,
    ToDaemon,
    Tokens,
    ToWorker,
    Unload,
    Unloaded,
)
from neuron.step import CacheShape, EmbeddingPlan, PoisonedError, StepPlan, StepResult
from neuron.worker.host_cache import HostCache
from neuron.worker.loop import DeviceLoop
from neuron.worker.model_pool import ModelPool, WorkerSettings
from neuron.worker.resident_adapters import ResidentAdapters
from neuron.worker.resident_model import ResidentModel
from tests.engine.fake_device import VOCAB, FakeDevice, continuation

SHAPE = CacheShape(num_pages=64, page_size=4, num_slots=4, context=100)
PROMPT = [1, 2, 3]


class FakeRunner(FakeDevice):
    """Raises `failures` first, one a step. With a channel, a step takes time."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__(SHAPE)
        self.failures = list(failures)
        self.channel: FakeChannel | None = None

    def run(self, plan: StepPlan) -> StepResult:
        if self.channel:
            self.channel.now += 0.01
        if self.failures:
            raise self.failures.pop(0)
        return super().run(plan)


class FakeModelPool:
    budget, used, free, fragmented = 100 << 20, 30 << 20, 70 << 20, 2 << 20

    def __init__(self, damage: str | None = None, **runners: FakeRunner) -> None:
        self.damage = damage
        self.models = {model: self.resident(model, runner) for model, runner in runners.items()}
        self.followed: dict[str, Any] = {}
        self.asleep = HostCache(0)

        self.adapters = ResidentAdapters()

    def find(self, model: str) -> Any:
        resident = self.models.get(model)
        return resident and (resident, None)

    def resident(self, model: str, runner: FakeRunner) -> Any:
        limits = SchedulerLimits(max_running=4, step_tokens=16)
        scheduler = Scheduler(model, SHAPE, vocab_size=VOCAB, limits=limits)
        stored: Any = SimpleNamespace(
            module=None,
            stored=("q8_0", 8.5),
            num_bytes=5 << 20,
            memory_mb=5,
            path=Path("/none"),
            damage=self.damage,
            draft_bytes=0,
        )
        return ResidentModel(stored, scheduler, runner, num_bytes=5 << 20, needed_bytes=4 << 20)

    def load(self, model: str, path: Path, on_progress: Callable[[float], None], **_: str | None) -> Any:
        for percent in range(0, 101, 25):
            on_progress(percent / 100)
        if path.name == "broken":
            raise ModelLoadError("model_broken", "it is broken")
        if path.name == "crashing":
            raise AttributeError("no attribute 'x'\nand more")
        if path.name == "poisoned":
            raise PoisonedError("xid 79")
        self.models[model] = self.resident(model, FakeRunner())
        return self.models[model]

    def unload(self, model: str) -> Any:
        return self.models.pop(model, None)

    def release_unused(self, *, collects: bool = True) -> None:
        pass


class FakeChannel:
    """Delivers one batch of messages a turn, then `Shutdown`; time passes while it waits."""

    def __init__(self, *turns: Sequence[ToWorker], idle_turns: int = 0) -> None:
        self.turns = [*turns, *[()] * idle_turns]
        self.sent: list[ToDaemon] = []
        self.now = 100.0
        self.delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.deliver = self.delivered.put

    def receive(self, timeout_s: float) -> list[ToWorker]:
        self.now += timeout_s or 0.01
        if not self.delivered.empty():
            return [self.delivered.get()]
        return list(self.turns.pop(0)) if self.turns else [Shutdown()]

    def send(self, messages: Sequence[ToDaemon]) -> None:
        self.sent += messages

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    def text(self, number: int) -> list[int]:
        return [token for m in self.of(Tokens) if m.id == number for token in m.tokens]


def run(pool: FakeModelPool, channel: FakeChannel) -> FakeChannel:
    DeviceLoop(pool, channel, clock=lambda: channel.now).run()  # type: ignore[arg-type]
    return channel


def submit(number: int, model: str = "m", max_tokens: int = 5) -> Submit:
    return Submit(number, model, PROMPT, max_tokens, Sampling(), [])


def test_a_request_is_served_and_shutdown_ends_the_rest():
    channel = run(
        FakeModelPool(m=FakeRunner()), FakeChannel([submit(1), submit(2, max_tokens=90)], idle_turns=8)
    )
    assert isinstance(channel.sent[0], Ready)
    assert channel.text(1) == continuation(PROMPT, 5)
    assert channel.of(Finished) == [Finished(1, "length", 3, 5, 0)]
    assert [(r.id, r.code) for r in channel.of(Refused)] == [(2, "shutting_down")]


def test_a_step_that_fails_ends_its_requests_and_not_the_worker():
    pool = FakeModelPool(m=FakeRunner(RuntimeError("shape mismatch")), other=FakeRunner())
    channel = run(pool, FakeChannel([submit(1), submit(2, "other")], [submit(3)], idle_turns=8))
    refused = channel.of(Refused)
    assert [(r.id, r.status, r.code) for r in refused] == [(1, 500, "engine_error")]
    assert "RuntimeError: shape mismatch" in refused[0].message
    assert channel.text(2) == channel.text(3) == continuation(PROMPT, 5)


@pytest.mark.parametrize("failures", [(), (PoisonedError("no numbers"),)], ids=["text", "no numbers"])
def test_nothing_is_answered_from_a_file_that_changed_under_its_model(failures: tuple[Exception, ...]):
    pool = FakeModelPool("weights were written to", m=FakeRunner(*failures))
    channel = run(pool, FakeChannel([submit(1)], [submit(2)], idle_turns=8))
    refused = channel.of(Refused)
    assert [(r.id, r.status, r.code) for r in refused] == [(1, 500, "engine_error"), (2, 500, "engine_error")]
    assert all("weights were written to" in r.message for r in refused)
    assert not channel.of(Tokens)


def test_a_poisoned_device_ends_every_request_of_every_model():
    pool = FakeModelPool(m=FakeRunner(PoisonedError("xid 79")), other=FakeRunner())
    channel = FakeChannel([submit(1), submit(2, "other")], idle_turns=8)
    with pytest.raises(PoisonedError):
        run(pool, channel)
    assert {(r.id, r.status, r.code) for r in channel.of(Refused)} == {
        (1, 503, "engine_error"),
        (2, 503, "engine_error"),
    }


class SlowEmbedder:
    """Needs some turns for a step, and notes how long each may take."""

    shape = SHAPE

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.seconds: list[float | None] = []

    def run(self, plan: EmbeddingPlan) -> list[bytes] | None:
        self.seconds.append(plan.seconds)
        return [b"vector"] if len(self.seconds) == self.turns else None


def test_streams_go_on_while_a_text_is_embedded():
    runner, embedder = FakeRunner(), SlowEmbedder(turns=20)
    pool = FakeModelPool(m=runner)
    stored = pool.models["m"].loaded
    scheduler = EmbeddingScheduler("e", context=90, vocab_size=VOCAB, limits=SchedulerLimits())
    pool.models["e"] = ResidentModel(stored, scheduler, embedder, num_bytes=0, needed_bytes=0)
    answering = [submit(1, max_tokens=60)], [], []
    channel = FakeChannel(*answering, [Embed(2, "e", [[1, 2]])], idle_turns=80)
    runner.channel = channel
    run(pool, channel)
    (at,) = (at for at, message in enumerate(channel.sent) if isinstance(message, Embedded))
    told = [isinstance(message, Tokens) for message in channel.sent]
    assert sum(told[:at]) >= 20
    assert channel.text(1) == continuation(PROMPT, 60)
    assert len(embedder.seconds) == 20
    assert None not in embedder.seconds


def test_messages_during_a_load_are_served_or_deferred():
    during = [[submit(1)], [Unload("m")], [], [], []]
    channel = run(FakeModelPool(m=FakeRunner()), FakeChannel([Load("new", "/new")], *during, idle_turns=8))
    assert [p.fraction for p in channel.of(LoadProgress)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    kinds = [type(m) for m in channel.sent if isinstance(m, (Tokens, Loaded, Unloaded))]
    assert kinds.index(Tokens) < kinds.index(Loaded) < kinds.index(Unloaded)
    assert [m.model for m in channel.of(Loaded)] == ["new"]


def test_a_stream_makes_a_step_between_two_loads_that_fail():
    loads = [Load(f"new-{number}", "/broken") for number in range(5)]
    channel = run(
        FakeModelPool(m=FakeRunner()), FakeChannel([submit(1, max_tokens=90), *loads], idle_turns=60)
    )
    ends = [at for at, message in enumerate(channel.sent) if isinstance(message, LoadFailed)]
    between = [channel.sent[one:other] for one, other in itertools.pairwise(ends)]
    pieces = 5  # of a load of the fake pool
    counts = [sum(isinstance(message, Tokens) for message in messages) for messages in between]
    assert counts == [pieces + 1] * (len(loads) - 1)


class FollowingChannel(FakeChannel):
    """Delivers the next batch once a message of a kind has been sent."""

    def __init__(self, *turns: tuple[type[Any], ToWorker]) -> None:
        super().__init__()
        self.waiting = list(turns)

    def receive(self, timeout_s: float) -> list[ToWorker]:
        self.now += timeout_s or 0.01
        return [self.waiting.pop(0)[1]] if self.of(self.waiting[0][0]) else []


def test_a_stream_goes_on_while_a_model_is_read_and_found_damaged(llama: Path, tmp_path: Path):
    damaged = Path(shutil.copytree(llama, tmp_path / "damaged"))
    config = json.loads((llama / "config.json").read_text())
    config["intermediate_size"] += 1
    (damaged / "config.json").write_text(json.dumps(config))
    limits = SchedulerLimits(max_running=4, step_tokens=16)
    pool = ModelPool(torch.device("cpu"), WorkerSettings(memory_mb=4000, kv_mb=8, limits=limits))
    load, damaged_load = Load("m", str(llama)), Load("damaged", str(damaged))
    stream = submit(1, max_tokens=400)
    channel = FollowingChannel(
        (Ready, load), (Loaded, stream), (Tokens, damaged_load), (LoadFailed, Shutdown())
    )
    run(pool, channel)
    assert "intermediate_size" in channel.of(LoadFailed)[0].message
    reading = channel.sent[channel.sent.index(channel.of(LoadProgress)[-1]) :]
    searching = [type(message) for message in reading if isinstance(message, (Tokens, LoadFailed))]
    sizes = [value for value in config.values() if type(value) is int]
    assert searching.index(LoadFailed) > len(sizes)


class CompilingChannel(FakeChannel):
    """After its turns, waits for what the grammar thread delivers before `Shutdown`."""

    def receive(self, timeout_s: float) -> list[ToWorker]:
        if self.turns or self.of(Refused) or self.of(Finished):
            return super().receive(timeout_s)
        return [self.delivered.get(timeout=60)]


def test_a_grammar_that_cannot_be_compiled_refuses_its_request():
    guided = msgspec.structs.replace(submit(1), grammar=AnswerGrammar("start: %json {}", [0]))
    channel = run(FakeModelPool(m=FakeRunner()), CompilingChannel([guided]))
    assert [(r.id, r.status, r.code) for r in channel.of(Refused)] == [(1, 400, "invalid_grammar")]
    assert "tokenizer" in channel.of(Refused)[0].message


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled():
    guided = msgspec.structs.replace(submit(1), grammar=AnswerGrammar("start: %json {}", [0]))
    channel = run(FakeModelPool(m=FakeRunner()), FakeChannel([guided, Cancel(1)], idle_turns=3))
    assert channel.of(Finished) == [Finished(1, "cancelled", 3, 0)]
    assert not channel.of(Refused)


def test_memory_is_answered_during_a_load():
    channel = run(
        FakeModelPool(), FakeChannel([Load("new", "/new")], [AskMemory(7)], [], [], [], idle_turns=2)
    )
    assert channel.of(Memory) == [Memory(7, 30, 70, 2)]
    kinds = [type(message) for message in channel.sent]
    assert kinds.index(Memory) < kinds.index(Loaded)


def test_a_cache_reset_drops_the_pages_of_ended_requests_only():
    pool = FakeModelPool(m=FakeRunner())
    running = msgspec.structs.replace(submit(2, max_tokens=60), tokens=PROMPT * 6)
    like_running = msgspec.structs.replace(submit(3), tokens=PROMPT * 6)
    like_ended = msgspec.structs.replace(submit(4), tokens=[*PROMPT, *continuation(PROMPT, 5), 1])
    reset = [ResetCache(9, "m"), ResetCache(10, "nope")]
    turns = [[submit(1)], *[()] * 6, [running], *[()] * 3, reset, (), [like_running, like_ended]]
    channel = run(pool, FakeChannel(*turns, idle_turns=70))
    assert channel.of(Memory) == [Memory(9, 30, 70, 2)]
    assert [(r.id, r.code) for r in channel.of(Refused)] == [(10, "model_unloaded")]
    assert {end.id: end.cached_tokens for end in channel.of(Finished)} == {1: 0, 2: 0, 3: 16, 4: 0}
    assert channel.text(2) == continuation(PROMPT * 6, 60)


def test_a_failed_load_is_reported_with_its_cause():
    channel = run(FakeModelPool(), FakeChannel([Load("new", "/broken")], idle_turns=8))
    assert channel.of(LoadFailed) == [LoadFailed("new", "model_broken", "it is broken")]


def test_a_load_that_crashes_is_a_failed_load_and_others_keep_running():
    channel = FakeChannel([submit(1, max_tokens=8), Load("new", "/crashing")], idle_turns=12)
    run(FakeModelPool(m=FakeRunner()), channel)
    cause = "/crashing: cannot be loaded: AttributeError: no attribute 'x'"
    assert channel.of(LoadFailed) == [LoadFailed("new", "model_broken", cause)]
    assert channel.text(1) == continuation(PROMPT, 8)


def test_a_load_that_poisons_the_device_ends_the_worker():
    channel = FakeChannel([submit(1)], [Load("new", "/poisoned")])
    with pytest.raises(PoisonedError):
        run(FakeModelPool(m=FakeRunner()), channel)
    assert not channel.of(LoadFailed)


def test_unknown_models_are_refused_and_unknown_unloads_answered():
    channel = run(FakeModelPool(), FakeChannel([submit(1, "nope"), Unload("nope")]))
    assert [(r.status, r.code) for r in channel.of(Refused)] == [(503, "model_unloaded")]
    assert channel.of(Unloaded) == [Unloaded("nope")]


def test_status_is_sent_on_change_but_not_with_every_step():
    channel = FakeChannel([submit(1, max_tokens=90)], idle_turns=90)
    run(FakeModelPool(m=FakeRunner()), channel)
    assert 3 <= len(channel.of(Status)) <= (channel.now - 100.0) / STATUS_INTERVAL_S + 1
    assert any(status.models[0].running for status in channel.of(Status))


def test_an_idle_worker_sends_heartbeats():
    channel = FakeChannel(idle_turns=10)
    run(FakeModelPool(m=FakeRunner()), channel)
    statuses = channel.of(Status)
    assert len(statuses) >= 9
    assert channel.now - 100.0 == pytest.approx(HEARTBEAT_S * (len(statuses) - 1), abs=2 * HEARTBEAT_S)
    assert (statuses[0].memory_used_mb, statuses[0].memory_free_mb) == (30, 70)
