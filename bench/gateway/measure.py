"""What is measured, and the ratios that are made of it.

rps_over_*            JSON requests/s at 32 connections that ask again at once, the node answers instantly
cpu_over_*            CPU seconds per million chunks, 128 streams of 50 chunks/s; ours with its Redis
delay_p99_over_nginx  p99 of a chunk's way from the node's write to the client's read, same load
stalls, broken        ours, at 128 and at 512 such streams, all rounds: gaps over 1 s; streams that lack a
                      byte, a chunk or their end, or hold another byte than was sent
ttfb_added_p99_ms     p99 of the time to a stream's first byte, 32 connections with 20 requests/s each, minus
                      the same without a gateway
kib_per_stream        private memory of ours with 512 open streams that say nothing, less than without, each
p99_db_down_over_up   p99 of that time to the first byte, PostgreSQL stopped under this load, over with it

A ratio is the median of the rounds' ratios. `null` means that the peer is missing; `missing` says why.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.common import clean_environment, cpu_s, free_ports, machine, median
from bench.gateway.load import WARM_S, Job
from bench.gateway.ours import Ours, ours
from bench.gateway.peers import Peer
from bench.gateway.processes import Server, launch

START_S = 90.0
SETTLED = 0.05  # of a core: a server that uses less has no work left
SETTLE_S = 15.0
CONNECTIONS, STREAMS, MANY_STREAMS = 32, 128, 512
FIRST_GAP_US = 50_000

Run = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    slow_rounds: int  # of a peer that cannot bear the load, whose streams have to be waited for
    other_rounds: int  # of peers that no key is about
    seconds: float
    many_rounds: int
    database_rounds: int
    memory_of_all: bool


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
SLOW = {"litellm"}
OTHERS = {"smg", "sglang-router"}


@dataclass(frozen=True, slots=True)
class Cores:
    """The gateway has one to itself; with fewer than four the others share."""

    gateway: int
    node: int
    load: int
    rest: tuple[int, ...]  # database and Redis may use all others

    @classmethod
    def choose(cls) -> Cores:
        """Raises `SystemExit` with fewer than two cores."""
        there = sorted(os.sched_getaffinity(0))
        if len(there) < 2:
            raise SystemExit("bench.gateway needs two cores: one is the gateway's")
        others = there[:-1]
        return cls(there[-1], others[1 % len(others)], others[2 % len(others)], (others[0],))


@dataclass
class Lab:
    """Everything that runs, and all that was measured so far: `runs[kind][server]`, in order."""

    plan: Plan
    cores: Cores
    say: Say
    node: Server
    ours: Ours
    peers: list[Server] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, list[Run]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def load(self, kind: str, server: Server, connections: int, **more: Any) -> Job:
        more = {"seconds": self.plan.seconds, "verbatim": server.verbatim} | more
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

    def run(self, label: str, server: Server, job: Job) -> Run:
        """One run, kept under its label."""
        return self.keep(label, server, self.generator(job))

    def keep(self, label: str, server: Server, generator: subprocess.Popen[str]) -> Run:
        out, _ = generator.communicate()
        if generator.returncode:
            raise RuntimeError(f"the load generator failed at {label}, {server.name}")
        figures: Run = msgspec.json.decode(out.splitlines()[-1])
        self.runs[label][server.name].append(figures)
        self.say(f"{label:8} {server.name:14} {brief(figures)}")
        return figures


def brief(run: Run) -> str:
    keys = ("rps", "cpu_us", "chunks_per_s", "cpu_s_per_million", "stalls", "broken", "foreign", "generator")
    shown = [f"{key}={run[key]:.5g}" for key in keys if key in run]
    shown += [f"{key} p99={run[key].get('p99', 0):.2f}" for key in run if key.endswith("_ms") and run[key]]
    return "  ".join(shown) + (f"  {run['problems']}" if run.get("problems") else "")


def measure(plan: Plan, peers: Sequence[Peer], say: Say) -> dict[str, Any]:
    started = time.monotonic()
    with ExitStack() as stack:
        lab = _open(stack, plan, peers, say)
        start_s = time.monotonic() - started
        _memory(lab)
        for number in range(plan.rounds):
            _round(lab, number)
        for _ in range(plan.many_rounds):
            _streams(lab, lab.ours.server, MANY_STREAMS)
        for _ in range(plan.database_rounds):
            _database(lab)
        versions = {peer.name: peer.version() for peer in peers if peer.name not in lab.missing}
        return {
            **keys(lab.runs),
            "missing": lab.missing,
            "figures": absolute(lab.runs),
            "versions": versions,
            "machine": machine(),
            "cores": {name: getattr(lab.cores, name) for name in ("gateway", "node", "load", "rest")},
            "start_s": start_s,
            "total_s": time.monotonic() - started,
            "runs": lab.runs,
        }


def _open(stack: ExitStack, plan: Plan, peers: Sequence[Peer], say: Say) -> Lab:
    cores, ports = Cores.choose(), free_ports()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True)))
    folder.chmod(0o755)  # PostgreSQL and nginx drop root
    node = _node(stack, folder, cores.node)
    starting, missing = [], {}
    for peer in peers:
        if reason := peer.missing():
            missing[peer.name] = reason
            continue
        port, _ = next(ports), next(ports)
        starting.append(peer.start(stack, folder, port=port, node=node.port, core=cores.gateway))
    own = stack.enter_context(
        ours(folder / "ours", port=next(ports), node=node.port, core=cores.gateway, rest=cores.rest)
    )
    own.server.wait_until_it_answers(START_S)
    lab = Lab(plan, cores, say, node, own, missing=missing)
    for server in starting:
        try:
            server.wait_until_it_answers(START_S)
        except TimeoutError as error:
            missing[server.name] = str(error)
        else:
            lab.peers.append(server)
    for server in (own.server, *lab.peers):
        _settle(server)
    return lab


def _node(stack: ExitStack, folder: Path, core: int) -> Server:
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
    command = [sys.executable, "-m", "bench.gateway.mock", "--fd", str(sock.fileno())]
    log = folder / "node.log"
    process = launch(stack, command, core=core, log=log, env=clean_environment(), fds=[sock.fileno()])
    server = Server("direct", sock.getsockname()[1], process, log)
    server.wait_until_it_answers(START_S)
    return server


def _settle(server: Server) -> None:
    """Until it has no work left of what was before."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        before = cpu_s(server.pids)
        time.sleep(0.4)
        if cpu_s(server.pids) - before < 0.4 * SETTLED:
            return


def _round(lab: Lab, number: int) -> None:
    """Every server once; who begins changes, who cannot bear it comes last."""
    left_out = SLOW if number < lab.plan.other_rounds else SLOW | OTHERS
    fast = [lab.ours.server, *(peer for peer in lab.peers if peer.name not in left_out)]
    turn = number % len(fast)
    slow = [peer for peer in lab.peers if peer.name in SLOW and number < lab.plan.slow_rounds]
    direct = [lab.node] if number == 0 else []
    order = [*direct, *fast[turn:], *fast[:turn], *slow]
    for server in order:
        lab.run("json", server, lab.load("closed", server, CONNECTIONS))
        _settle(server)
    for server in order:
        _streams(lab, server, STREAMS)
    for server in (lab.node, lab.ours.server):
        lab.run("first", server, lab.load("first", server, CONNECTIONS, gap_us=FIRST_GAP_US))


def _streams(lab: Lab, server: Server, count: int) -> None:
    job = lab.load("streams", server, count, seconds=lab.plan.seconds + WARM_S)
    lab.run(f"streams-{count}", server, job)
    _settle(server)


def _memory(lab: Lab) -> None:
    for server in [lab.ours.server, *(lab.peers if lab.plan.memory_of_all else [])]:
        lab.run("warm", server, lab.load("first", server, CONNECTIONS, gap_us=FIRST_GAP_US, seconds=1.0))
        _settle(server)
        before = server.memory_kib
        generator = lab.generator(lab.load("idle", server, MANY_STREAMS))
        assert generator.stdout is not None
        opened = msgspec.json.decode(generator.stdout.readline())["open"]
        time.sleep(0.5)
        after = server.memory_kib
        generator.communicate()
        kib = (after - before) / opened if opened else None
        lab.runs["idle"][server.name].append({"open": opened, "kib_per_stream": kib})
        lab.say(f"idle     {server.name:14} {opened} open, {kib or 0:.1f} KiB each")
        _settle(server)


def _database(lab: Lab) -> None:
    """PostgreSQL goes in the generator's first second, before its window."""
    server = lab.ours.server
    job = lab.load("first", server, CONNECTIONS, gap_us=FIRST_GAP_US)
    lab.run("db-up", server, job)
    stopping = threading.Timer(WARM_S / 2, lab.ours.stop_database)
    stopping.start()
    lab.run("db-down", server, job)
    stopping.join()
    lab.ours.start_database()
    time.sleep(3.0)  # what waited for it is written
    _settle(server)


# --- figures ---


def keys(runs: dict[str, dict[str, list[Run]]]) -> dict[str, float | int | None]:
    paced = runs["streams-128"]["ours"] + runs["streams-512"]["ours"]
    result: dict[str, float | int | None] = {}
    for peer in ("vllm-router", "nginx"):
        name = peer.replace("-", "_")
        result[f"rps_over_{name}"] = _ratio(runs["json"], peer, "rps")
        result[f"cpu_over_{name}"] = _ratio(runs["streams-128"], peer, "cpu_s_per_million")
    result |= {
        "delay_p99_over_nginx": _ratio(runs["streams-128"], "nginx", "delay_ms"),
        "stalls": sum(run["stalls"] for run in paced),
        "broken": sum(run["broken"] for run in paced),
        "ttfb_added_p99_ms": _median_of(
            runs["first"]["ours"], runs["first"]["direct"], lambda a, b: a - b, "first_ms"
        ),
        "rps_over_litellm": _ratio(runs["json"], "litellm", "rps"),
        "cpu_over_litellm": _ratio(runs["streams-128"], "litellm", "cpu_s_per_million"),
        "kib_per_stream": median(run["kib_per_stream"] for run in runs["idle"]["ours"]),
        "p99_db_down_over_up": _median_of(
            runs["db-down"]["ours"], runs["db-up"]["ours"], lambda a, b: a / b, "first_ms"
        ),
    }
    return result


def _ratio(by_server: dict[str, list[Run]], peer: str, key: str) -> float | None:
    return _median_of(by_server["ours"], by_server[peer], lambda a, b: a / b, key)


def _median_of(
    ours: list[Run], theirs: list[Run], combine: Callable[[float, float], float], key: str
) -> float | None:
    """Of `combine` over the rounds that both have. Of a distribution the p99 is meant."""
    pairs = [(_value(a, key), _value(b, key)) for a, b in zip(ours, theirs, strict=False)]
    return median(combine(a, b) for a, b in pairs if a and b)


def _value(run: Run, key: str) -> float | None:
    value = run.get(key)
    return value.get("p99") if isinstance(value, dict) else value


def absolute(runs: dict[str, dict[str, list[Run]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Medians over the rounds: `figures[kind][server]`."""
    wanted = (
        "rps", "cpu_us", "latency_ms", "chunks_per_s", "cpu_s_per_million", "delay_ms", "stalls", "broken",
        "first_ms", "kib_per_stream", "foreign", "generator",
    )  # fmt: skip
    return {
        kind: {
            server: {
                f"{key}_p99" if key.endswith("_ms") else key: median(_value(run, key) for run in some)
                for key in wanted
                if any(key in run for run in some)
            }
            for server, some in by_server.items()
        }
        for kind, by_server in runs.items()
    }
