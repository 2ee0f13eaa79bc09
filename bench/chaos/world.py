"""A whole fleet as processes on this machine, and the verbs that break and mend it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from bench.processes import clean_environment, free_ports, wait_for
from tests.fleet.servers import RedisServer, postgres

START_S = 180.0
LOG_LINES = 30  # of a program that does not come back
KV_MB = 8

CONFIG = """
state_dir = "{home}"
models_config = "models.toml"
[lifecycle]
min_residency_s = 0.5

[gateway]
listen = "127.0.0.1:{0}"
metrics_listen = "127.0.0.1:{1}"
admin_listen = "127.0.0.1:{2}"
load_wait_s = 90
[poll]
interval_s = 1
timeout_s = 2
"""
NODE = '[[neurons]]\nname = "n{number}"\nendpoint = "{url}"\n'
MODEL = '[[models]]\nid = "m{number}"\nsource = "{source}"\nvram_mb = {size}\nharness = "{harness}"\n{more}\n'
STAND_IN = "tests.stubs.stand_in_engine"  # the server of a managed engine
ENGINE = "vllm"


# What a program that is starting may answer with.
NOT_YET = (httpx.HTTPError, KeyError, json.JSONDecodeError)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the fleet is, and the traffic on it."""

    neurons: int = 3
    gateways: int = 2
    models: int = 12  # every third one is a managed engine's
    devices: int = 2  # of a node; with several, every fourth model is split over two
    residents: int = 2  # models that fit on a node at once
    memory_mb: int | None = None  # of a node; None: room for these beside an empty worker, which is measured
    clients: int = 12


@dataclass
class Program:
    """A process that can be killed together with its children, and started again."""

    name: str
    command: list[str]
    env: dict[str, str] = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a session of its own, as services are: Linux may share its cores among sessions."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stderr=log, stdout=log, env=self.env, start_new_session=True
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait_for(self, condition: Callable[[int], bool], number: int) -> None:
        """Raises `RuntimeError` with the end of the log when the program ends or takes too long."""

        def holds() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{self.log_tail()}\n{self.name} ended")
            return condition(number)

        try:
            wait_for(holds, f"{self.name}, {condition.__name__}", START_S, not_yet=NOT_YET)
        except TimeoutError as error:
            raise RuntimeError(f"{self.log_tail()}\n{error}") from error

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def children(self, words: str) -> list[psutil.Process]:
        """Descendants whose command line has `words`."""
        assert self.process is not None
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if words in " ".join(child.cmdline()):
                        found.append(child)
        return found


@dataclass
class World:
    """Everything that runs. `kills`: when each gateway was killed, `time.monotonic` seconds."""

    scale: Scale
    folder: Path
    database: str
    redis: RedisServer
    neurons: list[Program] = field(default_factory=list)
    neuron_urls: list[str] = field(default_factory=list)
    gateways: list[Program] = field(default_factory=list)
    api_urls: list[str] = field(default_factory=list)
    kills: list[list[float]] = field(default_factory=list)
    _ports: Iterator[int] = field(default_factory=free_ports)

    def start(self, model: Path, size_mb: int) -> Self:
        self._start_neurons(size_mb)
        settings = [NODE.format(number=i, url=url) for i, url in enumerate(self.neuron_urls)]
        models = [self._profile(number, model, size_mb) for number in range(self.scale.models)]
        for number in range(self.scale.gateways):
            self.kills.append([])
            home = self.folder / f"gateway-{number}"
            home.mkdir()
            ports = [next(self._ports) for _ in range(3)]
            (home / "cortex.toml").write_text(CONFIG.format(*ports, home=home / "state") + "".join(settings))
            (home / "models.toml").write_text("".join(models))
            env = clean_environment(
                OMP_NUM_THREADS="1", CORTEX_DATABASE__URL=self.database, CORTEX_REDIS__URL=self.redis.url
            )
            command = [sys.executable, "-m", "cortex_site", "serve", "--config", str(home / "cortex.toml")]
            self.gateways.append(Program(f"gateway-{number}", command, env, home / "serve.log"))
            self.api_urls.append(f"http://127.0.0.1:{ports[0]}")
            self.gateways[-1].start()
            # One after the other: the first migrates the database.
            self.gateways[-1].wait_for(self.is_serving, number)
        wait_for(self._sees_all_neurons, "all neurons are healthy", START_S, not_yet=NOT_YET)
        return self

    def _profile(self, number: int, model: Path, size_mb: int) -> str:
        is_split = self.scale.devices > 1 and number % 4 == 3
        values = {"number": number, "size": size_mb, "more": "tensor_parallel = 2" if is_split else ""}
        if number % 3 == 2:
            return MODEL.format(source=self.engine_model, harness=ENGINE, **values)
        return MODEL.format(source=model, harness="torch", **values)

    @property
    def engine_model(self) -> Path:
        """The directory of all models of the managed engine."""
        folder = self.folder / "engine"
        if not folder.exists():
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").touch()
        return folder

    def _sees_all_neurons(self) -> bool:
        nodes = httpx.get(f"{self.api_urls[0]}/health", timeout=5).json()["nodes"]
        return bool(nodes["healthy"] == self.scale.neurons)

    def _start_neurons(self, size_mb: int) -> None:
        for number in range(self.scale.neurons):
            port = next(self._ports)
            command = [sys.executable, "-m", "neuron.cli", "serve", "--listen", f"127.0.0.1:{port}"]
            env = clean_environment(
                OMP_NUM_THREADS="1",
                NEURON_DEVICE__THREADS="1",
                NEURON_DEVICE__CPU_DEVICES=str(self.scale.devices),
                NEURON_DEVICE__KV_MB=str(KV_MB),
                NEURON_ENGINES=json.dumps({ENGINE: {"command": [sys.executable, "-m", STAND_IN, ENGINE]}}),
            )
            self.neurons.append(Program(f"n{number}", command, env, self.folder / f"neuron-{number}.log"))
            self.neuron_urls.append(f"http://127.0.0.1:{port}")
        budget = self.scale.memory_mb or self._measured_mb() + round((self.scale.residents + 0.6) * size_mb)
        for neuron in self.neurons:
            neuron.env["NEURON_DEVICE__MEMORY_MB"] = str(budget)
            neuron.start()
        for number, neuron in enumerate(self.neurons):
            neuron.wait_for(self.is_ready, number)

    def _measured_mb(self) -> int:
        """What an empty worker takes."""
        self.neurons[0].start()
        self.neurons[0].wait_for(self.is_ready, 0)
        health = httpx.get(f"{self.neuron_urls[0]}/health", timeout=5).json()
        self.neurons[0].stop()
        return int(health["devices"][0]["memory_used_mb"])

    def is_ready(self, neuron: int) -> bool:
        devices = httpx.get(f"{self.neuron_urls[neuron]}/health", timeout=5).json()["devices"]
        return all(device["state"] == "ready" for device in devices)

    def is_serving(self, gateway: int) -> bool:
        return httpx.get(f"{self.api_urls[gateway]}/health", timeout=5).status_code == httpx.codes.OK

    def models_on(self, neuron: int) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = httpx.get(f"{self.neuron_urls[neuron]}/models", timeout=5).json()
        return models

    # --- faults ---

    def kill_neuron(self, number: int) -> Callable[[], None]:
        """Each fault returns what mends it; None where the program's own supervisor does."""
        self.neurons[number].kill()
        return self.neurons[number].start

    def kill_device_worker(self, number: int) -> None:
        for worker in self.neurons[number].children("neuron.worker"):
            worker.kill()

    def kill_engine(self, number: int) -> None:
        """Kill what runs of a managed engine: its server, or the guard of it."""
        for process in self.neurons[number].children(STAND_IN):
            process.kill()

    def kill_tasks(self, gateway: int) -> None:
        for worker in self.gateways[gateway].children("tasks-"):
            worker.kill()

    def kill_gateway_worker(self, gateway: int) -> None:
        self.kills[gateway].append(time.monotonic())
        for worker in self.gateways[gateway].children("fleet.gateway.worker"):
            worker.kill()

    def kill_gateway(self, gateway: int) -> Callable[[], None]:
        self.kills[gateway].append(time.monotonic())
        self.gateways[gateway].kill()
        return self.gateways[gateway].start

    def kill_redis(self) -> Callable[[], None]:
        self.redis.stop()
        return self.redis.start

    def close(self) -> None:
        for program in (*self.gateways, *self.neurons):
            program.stop()


@contextmanager
def world(scale: Scale, folder: Path, model: Path, size_mb: int) -> Iterator[World]:
    """A world that runs; it ends with all its processes."""
    with ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        made = World(scale, folder, stack.enter_context(postgres(folder)), redis)
        stack.callback(made.close)
        yield made.start(model, size_mb)
