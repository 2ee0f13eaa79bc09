"""What a benchmark of gateways runs: the servers, which core each has, and the plan of the rounds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench import command
from bench.gateway.load import Job
from bench.gateway.ours import Ours, ours
from bench.gateway.peers import Router
from bench.gateway.processes import Server, launch
from bench.gateway.ratios import Run, Runs
from bench.machine import cpu_s
from bench.processes import clean_environment, free_ports

START_S = 90.0
GENERATOR_S = 30.0  # that a load takes beyond its window, at most
SETTLED = 0.05  # of a core: a server that uses less has no work left


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    slow_rounds: int  # of a peer that cannot bear the load, whose streams have to be waited for
    other_rounds: int  # of peers that no key is about
    json_rounds: int
    json_s: float  # of each turn of JSON requests
    seconds: float  # of each other turn
    many_rounds: int
    scale_rounds: int
    worker_rounds: int
    database_rounds: int
    database_turns: int  # with the database, and as many without it, in a round
    memory_of_all: bool
    connections: int = 32
    streams: int = 128
    many_streams: int = 512
    shared_streams: int = 64  # among two workers
    many_seconds: float = 2.5  # of many streams
    most_streams: int = 2048
    keys: int = 10_000
    nodes: int = 200
    models: int = 50
    warm_s: float = 1.0  # before the measured window
    settle_s: float = 15.0
    counted_s: float = 6.0  # until a gateway has begun its metrics of many keys, nodes and models
    pause_s: float = 3.0  # for what waited for the database to be written

    @property
    def many_s(self) -> float:
        """What a round of many streams takes, and one of more, about."""
        return 2 * (self.many_seconds + self.warm_s + 4)

    def scales_s(self, pairs: int, worker_pairs: int) -> float:
        """What so many pairs of turns of each scale take, about, and of two workers, with their starts."""
        start_s = self.counted_s + (18.0 if self.nodes > 2 else 5.0)
        return start_s + (6 * pairs + 2 * worker_pairs) * self.json_turn_s + 7 * worker_pairs

    @property
    def json_turn_s(self) -> float:
        """What a turn of JSON requests takes, about."""
        return self.json_s + self.warm_s + 1.2

    @property
    def round_s(self) -> float:
        """What a round of streams takes, about, with two peers."""
        return 8 * (self.seconds + self.warm_s + 1.2)


FULL = Plan(
    rounds=8,
    slow_rounds=2,
    other_rounds=3,
    json_rounds=12,
    json_s=1.0,
    seconds=2.0,
    many_rounds=2,
    scale_rounds=8,
    worker_rounds=3,
    database_rounds=3,
    database_turns=3,
    memory_of_all=True,
)
QUICK = Plan(
    rounds=2,
    slow_rounds=1,
    other_rounds=1,
    json_rounds=5,
    json_s=0.7,
    seconds=1.25,
    many_rounds=1,
    scale_rounds=3,
    worker_rounds=1,
    database_rounds=1,
    database_turns=2,
    memory_of_all=False,
    warm_s=0.4,
)
SMOKE = Plan(
    rounds=1,
    slow_rounds=1,
    other_rounds=1,
    json_rounds=1,
    json_s=0.4,
    seconds=0.5,
    many_rounds=1,
    scale_rounds=1,
    worker_rounds=1,
    database_rounds=1,
    database_turns=1,
    memory_of_all=False,
    connections=2,
    streams=4,
    many_streams=8,
    most_streams=12,
    shared_streams=4,
    many_seconds=0.5,
    keys=3,
    nodes=2,
    models=2,
    warm_s=0.2,
    settle_s=0.0,
    counted_s=0.0,
    pause_s=0.1,
)


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core each part runs on. The gateway has one to itself; with fewer than four the others share."""

    gateway: int
    node: int
    load: int
    rest: tuple[int, ...]  # database and Redis may use all others
    second: int  # of a second worker

    @classmethod
    def choose(cls) -> Cores:
        """The choice for this machine. Raises `SystemExit` with fewer than two cores."""
        there = sorted(os.sched_getaffinity(0))
        if len(there) < 2:
            raise SystemExit("bench.gateway needs two cores: one is the gateway's")
        others = there[:-1]
        of = [others[number % len(others)] for number in range(4)]
        return cls(there[-1], of[1], of[2], (of[0],), of[3])


@dataclass
class Lab:
    """Everything that runs, and all that was measured so far."""

    run: command.Run
    plan: Plan
    cores: Cores
    folder: Path
    ports: Iterator[int]
    node: Server
    ours: Ours
    peers: list[Server] = field(default_factory=list)
    runs: Runs = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def load(self, kind: str, server: Server, connections: int, **more: Any) -> Job:
        plan = self.plan
        more = {"seconds": plan.seconds, "warm_s": plan.warm_s, "verbatim": server.verbatim} | more
        pids, core = server.pids, self.cores.gateway
        if server is self.node:
            core = self.cores.node
        return Job(kind, server.port, connections, key=server.key, pids=pids, core=core, **more)  # type: ignore[arg-type]

    def json_load(self, server: Server, **more: Any) -> Job:
        """Clients that ask for JSON answers, one after the other."""
        more = {"connections": self.plan.connections, "seconds": self.plan.json_s} | more
        return self.load("closed", server, **more)

    def generator(self, job: Job) -> subprocess.Popen[str]:
        command = ["taskset", "-c", str(self.cores.load), sys.executable, "-m", "bench.gateway.load"]
        return subprocess.Popen(
            [*command, msgspec.json.encode(job).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            text=True,
        )

    def measure(self, label: str, server: Server, job: Job) -> None:
        """Put one load on a server and keep the run under its label."""
        generator = self.generator(job)
        out, _ = generator.communicate(timeout=job.seconds + GENERATOR_S)
        if generator.returncode:
            raise RuntimeError(f"the load generator failed at {label}, {server.name}")
        figures: Run = msgspec.json.decode(out.splitlines()[-1])
        self.runs[label][server.name].append(figures)
        self.run.say(f"{label:8} {server.name:14} {brief(figures)}")

    @contextmanager
    def held(self, server: Server, count: int) -> Iterator[int]:
        """So many streams, open and silent; the value is how many could be opened."""
        generator = self.generator(self.load("idle", server, count))
        assert generator.stdout is not None
        yield msgspec.json.decode(generator.stdout.readline())["open"]
        generator.communicate(timeout=GENERATOR_S)
        self.settle(server)

    @contextmanager
    def another(self, nodes: int, models: int) -> Iterator[Ours]:
        """Our gateway once more, with more nodes and models."""
        with ExitStack() as stack:
            many = node(stack, self.folder, self.cores.node, host="", models=models)
            own = stack.enter_context(
                ours(
                    self.folder / f"ours-{nodes}x{models}",
                    port=next(self.ports),
                    node=many.port,
                    core=self.cores.gateway,
                    rest=self.cores.rest,
                    size=(nodes, models),
                )
            )
            own.server.wait_until_it_answers(START_S)
            self.settle(own.server)
            yield own

    def settle(self, server: Server) -> None:
        """Wait until the server has no work left of what was before."""
        deadline = time.monotonic() + self.plan.settle_s
        while time.monotonic() < deadline:
            before = cpu_s(server.pids)
            time.sleep(0.4)
            if cpu_s(server.pids) - before < 0.4 * SETTLED:
                return


def brief(run: Run) -> str:
    keys = ("rps", "cpu_us", "chunks_per_s", "cpu_s_per_million", "stalls", "broken", "foreign", "generator")
    shown = [f"{key}={run[key]:.5g}" for key in keys if key in run]
    shown += [f"{key} p99={run[key].get('p99', 0):.2f}" for key in run if key.endswith("_ms") and run[key]]
    return "  ".join(shown) + (f"  {run['problems']}" if run.get("problems") else "")


def prepare(stack: ExitStack, run: command.Run) -> Lab:
    """Start everything, and wait until it answers."""
    cores, ports = Cores.choose(), free_ports()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True)))
    folder.chmod(0o755)  # PostgreSQL and nginx drop root
    mock = node(stack, folder, cores.node)
    starting: list[Server] = []
    for peer in run.peers:
        assert isinstance(peer, Router)
        port, _ = next(ports), next(ports)
        starting.append(peer.start(stack, folder, port=port, node=mock.port, core=cores.gateway))
    own = stack.enter_context(
        ours(folder / "ours", port=next(ports), node=mock.port, core=cores.gateway, rest=cores.rest)
    )
    own.server.wait_until_it_answers(START_S)
    lab = Lab(run, run.pick(FULL, QUICK, SMOKE), cores, folder, ports, mock, own)
    for server in starting:
        try:
            server.wait_until_it_answers(START_S)
        except TimeoutError as error:
            run.missing[server.name] = str(error)
        else:
            lab.peers.append(server)
    for server in (own.server, *lab.peers):
        lab.settle(server)
    return lab


def node(stack: ExitStack, folder: Path, core: int, host: str = "127.0.0.1", models: int = 1) -> Server:
    """The mock node, with so many models."""
    sock = stack.enter_context(socket.create_server((host, 0), backlog=2048))
    command = [
        sys.executable,
        "-m",
        "bench.gateway.mock",
        "--fd",
        str(sock.fileno()),
        "--models",
        str(models),
    ]
    log = folder / "node.log"
    process = launch(stack, command, core=core, log=log, env=clean_environment(), fds=[sock.fileno()])
    server = Server("direct", sock.getsockname()[1], process, log)
    server.wait_until_it_answers(START_S)
    return server
