"""The rounds in which all servers take turns under one load."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench import command
from bench.gateway.load import Job
from bench.gateway.ours import Ours, ours
from bench.gateway.peers import BY_NAME, Router
from bench.gateway.processes import Server, launch
from bench.gateway.ratios import Run, Runs, absolute, keys
from bench.machine import cpu_s
from bench.processes import clean_environment, free_ports

START_S = 90.0
GENERATOR_S = 30.0  # that a load takes beyond its window, at most
SETTLED = 0.05  # of a core: a server that uses less has no work left
FIRST_GAP_US = 50_000


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    slow_rounds: int  # of a peer that cannot bear the load, whose streams have to be waited for
    other_rounds: int  # of peers that no key is about
    seconds: float
    many_rounds: int
    database_rounds: int
    memory_of_all: bool
    connections: int = 32
    streams: int = 128
    many_streams: int = 512
    warm_s: float = 1.0  # before the measured window
    settle_s: float = 15.0
    pause_s: float = 3.0  # for what waited for the database to be written

    @property
    def many_s(self) -> float:
        """What a round of many streams takes, about."""
        return self.seconds + self.warm_s + 4

    @property
    def database_s(self) -> float:
        """What a round without the database takes, about."""
        return 2 * (self.seconds + self.warm_s) + self.pause_s + 8


FULL = Plan(
    rounds=3,
    slow_rounds=2,
    other_rounds=3,
    seconds=5.0,
    many_rounds=2,
    database_rounds=3,
    memory_of_all=True,
)
QUICK = Plan(
    rounds=2,
    slow_rounds=1,
    other_rounds=1,
    seconds=2.5,
    many_rounds=1,
    database_rounds=1,
    memory_of_all=False,
)
SMOKE = Plan(
    rounds=1,
    slow_rounds=1,
    other_rounds=1,
    seconds=0.5,
    many_rounds=1,
    database_rounds=1,
    memory_of_all=False,
    connections=2,
    streams=4,
    many_streams=8,
    warm_s=0.2,
    settle_s=0.0,
    pause_s=0.1,
)
SLOW = {"litellm"}
OTHERS = {"smg", "sglang-router"}


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core each part runs on. The gateway has one to itself; with fewer than four the others share."""

    gateway: int
    node: int
    load: int
    rest: tuple[int, ...]  # database and Redis may use all others

    @classmethod
    def choose(cls) -> Cores:
        """The choice for this machine. Raises `SystemExit` with fewer than two cores."""
        there = sorted(os.sched_getaffinity(0))
        if len(there) < 2:
            raise SystemExit("bench.gateway needs two cores: one is the gateway's")
        others = there[:-1]
        return cls(there[-1], others[1 % len(others)], others[2 % len(others)], (others[0],))


@dataclass
class Lab:
    """Everything that runs, and all that was measured so far."""

    run: command.Run
    plan: Plan
    cores: Cores
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


def measure(run: command.Run) -> dict[str, Any]:
    with ExitStack() as stack:
        lab = _open(stack, run)
        start_s = run.budget.elapsed
        _memory(lab)
        _take_turns(lab)
        return {
            **keys(lab.runs),
            "start_s": start_s,
            "figures": absolute(lab.runs),
            "versions": {server.name: BY_NAME[server.name].version() for server in lab.peers},
            "cores": {name: getattr(lab.cores, name) for name in ("gateway", "node", "load", "rest")},
            "runs": lab.runs,
        }


def _take_turns(lab: Lab) -> None:
    plan, budget = lab.plan, lab.run.budget
    last_s = plan.database_rounds * plan.database_s
    after_s = plan.many_rounds * plan.many_s + last_s
    for number in budget.rounds(plan.rounds, "rounds beside the peers", reserve_s=after_s):
        _round(lab, number)
    if budget.allows(f"{plan.many_streams} streams", plan.many_s):
        for _ in budget.rounds(plan.many_rounds, f"{plan.many_streams} streams", reserve_s=last_s):
            _streams(lab, lab.ours.server, "streams-512", plan.many_streams)
    if budget.allows("PostgreSQL stopped", plan.database_s):
        for _ in budget.rounds(plan.database_rounds, "PostgreSQL stopped"):
            _database(lab)


def _open(stack: ExitStack, run: command.Run) -> Lab:
    cores, ports = Cores.choose(), free_ports()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True)))
    folder.chmod(0o755)  # PostgreSQL and nginx drop root
    node = _node(stack, folder, cores.node)
    starting: list[Server] = []
    for peer in run.peers:
        assert isinstance(peer, Router)
        port, _ = next(ports), next(ports)
        starting.append(peer.start(stack, folder, port=port, node=node.port, core=cores.gateway))
    own = stack.enter_context(
        ours(folder / "ours", port=next(ports), node=node.port, core=cores.gateway, rest=cores.rest)
    )
    own.server.wait_until_it_answers(START_S)
    lab = Lab(run, run.pick(FULL, QUICK, SMOKE), cores, node, own)
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


def _node(stack: ExitStack, folder: Path, core: int) -> Server:
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
    command = [sys.executable, "-m", "bench.gateway.mock", "--fd", str(sock.fileno())]
    log = folder / "node.log"
    process = launch(stack, command, core=core, log=log, env=clean_environment(), fds=[sock.fileno()])
    server = Server("direct", sock.getsockname()[1], process, log)
    server.wait_until_it_answers(START_S)
    return server


def _round(lab: Lab, number: int) -> None:
    """Every server once. The first one changes, the slow ones come last."""
    left_out = SLOW if number < lab.plan.other_rounds else SLOW | OTHERS
    fast = [lab.ours.server, *(peer for peer in lab.peers if peer.name not in left_out)]
    turn = number % len(fast)
    slow = [peer for peer in lab.peers if peer.name in SLOW and number < lab.plan.slow_rounds]
    direct = [lab.node] if number == 0 else []
    order = [*direct, *fast[turn:], *fast[:turn], *slow]
    for server in order:
        lab.measure("json", server, lab.load("closed", server, lab.plan.connections))
        lab.settle(server)
    for server in order:
        _streams(lab, server, "streams-128", lab.plan.streams)
    for server in (lab.node, lab.ours.server):
        lab.measure("first", server, _first(lab, server))


def _first(lab: Lab, server: Server, **more: Any) -> Job:
    return lab.load("first", server, lab.plan.connections, gap_us=FIRST_GAP_US, **more)


def _streams(lab: Lab, server: Server, label: str, count: int) -> None:
    job = lab.load("streams", server, count, seconds=lab.plan.seconds + lab.plan.warm_s)
    lab.measure(label, server, job)
    lab.settle(server)


def _memory(lab: Lab) -> None:
    for server in [lab.ours.server, *(lab.peers if lab.plan.memory_of_all else [])]:
        lab.measure("warm", server, _first(lab, server, seconds=min(1.0, lab.plan.seconds)))
        lab.settle(server)
        before = server.memory_kib
        generator = lab.generator(lab.load("idle", server, lab.plan.many_streams))
        assert generator.stdout is not None
        opened = msgspec.json.decode(generator.stdout.readline())["open"]
        time.sleep(0.5)
        after = server.memory_kib
        generator.communicate(timeout=GENERATOR_S)
        kib = (after - before) / opened if opened else None
        lab.runs["idle"][server.name].append({"open": opened, "kib_per_stream": kib})
        lab.run.say(f"idle     {server.name:14} {opened} open, {kib or 0:.1f} KiB each")
        lab.settle(server)


def _database(lab: Lab) -> None:
    """Measure with PostgreSQL, and with PostgreSQL stopped before the generator's window begins."""
    server = lab.ours.server
    job = _first(lab, server)
    lab.measure("db-up", server, job)
    stopping = threading.Timer(lab.plan.warm_s / 2, lab.ours.stop_database)
    stopping.start()
    lab.measure("db-down", server, job)
    stopping.join()
    lab.ours.start_database()
    time.sleep(lab.plan.pause_s)
    lab.settle(server)
