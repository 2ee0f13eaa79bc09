"""The rounds in which all servers take turns under one load."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

from bench import command
from bench.gateway.lab import Lab, prepare
from bench.gateway.load import Job
from bench.gateway.peers import BY_NAME
from bench.gateway.processes import Server
from bench.gateway.ratios import absolute, keys
from bench.gateway.scales import scales

FIRST_GAP_US = 50_000
WIDE_GAP_US = 200_000  # of the most streams, whose chunks together are not more than a core can pass
SLOW = {"litellm"}
OTHERS = {"smg", "sglang-router"}


def measure(run: command.Run) -> dict[str, Any]:
    with ExitStack() as stack:
        lab = prepare(stack, run)
        start_s = run.budget.elapsed
        _memory(lab)
        _take_turns(lab)
        return {
            **keys(lab.runs),
            "start_s": start_s,
            "figures": absolute(lab.runs),
            "versions": {server.name: BY_NAME[server.name].version() for server in lab.peers},
            "cores": {
                name: getattr(lab.cores, name) for name in ("gateway", "node", "load", "rest", "second")
            },
            "runs": lab.runs,
        }


def _take_turns(lab: Lab) -> None:
    """What only a loop's first round measures comes first: more rounds take what time is left."""
    plan, budget = lab.plan, lab.run.budget
    for _ in budget.rounds(plan.database_rounds, "PostgreSQL stopped"):
        _database(lab)
    last_s = plan.scales_s(plan.scale_rounds, plan.worker_rounds)
    after_s = plan.many_rounds * plan.many_s + last_s
    for number in budget.rounds(plan.json_rounds, "JSON requests", reserve_s=plan.round_s + after_s):
        _json_round(lab, number)
    for number in budget.rounds(plan.rounds, "streams beside the peers", reserve_s=after_s):
        _round(lab, number)
    if budget.allows(f"{plan.many_streams} streams", plan.many_s):
        for _ in budget.rounds(plan.many_rounds, f"{plan.many_streams} streams", reserve_s=last_s):
            _streams(lab, lab.ours.server, "streams-512", plan.many_streams, seconds=plan.many_seconds)
            _streams(
                lab,
                lab.ours.server,
                "streams-2048",
                plan.most_streams,
                seconds=plan.many_seconds,
                gap_us=WIDE_GAP_US,
            )
    if budget.allows("scales", plan.scales_s(1, 1)):
        scales(lab)


def _json_round(lab: Lab, number: int) -> None:
    """A short turn of every server: a ratio is of two turns within seconds, and there are many of them."""
    for server in _order(lab, number):
        lab.measure("json", server, lab.json_load(server))
        lab.settle(server)


def _order(lab: Lab, number: int) -> list[Server]:
    """Every server once. The first one changes, the slow ones come last."""
    left_out = SLOW if number < lab.plan.other_rounds else SLOW | OTHERS
    fast = [lab.ours.server, *(peer for peer in lab.peers if peer.name not in left_out)]
    turn = number % len(fast)
    slow = [peer for peer in lab.peers if peer.name in SLOW and number < lab.plan.slow_rounds]
    direct = [lab.node] if number == 0 else []
    return [*direct, *fast[turn:], *fast[:turn], *slow]


def _round(lab: Lab, number: int) -> None:
    """Streams of every server once."""
    for server in _order(lab, number):
        _streams(lab, server, "streams-128", lab.plan.streams)
    _streams(lab, lab.ours.server, "http2-128", lab.plan.streams, http2=True)
    nginx = [peer for peer in lab.peers if peer.name == "nginx"]
    for server in (lab.node, lab.ours.server, *nginx):
        lab.measure("first", server, _first(lab, server))


def _first(lab: Lab, server: Server, **more: Any) -> Job:
    return lab.load("first", server, lab.plan.connections, gap_us=FIRST_GAP_US, **more)


def _streams(lab: Lab, server: Server, label: str, count: int, seconds: float = 0.0, **more: Any) -> None:
    seconds = (seconds or lab.plan.seconds) + lab.plan.warm_s
    job = lab.load("streams", server, count, seconds=seconds, **more)
    lab.measure(label, server, job)
    lab.settle(server)


def _memory(lab: Lab) -> None:
    for server in [lab.ours.server, *(lab.peers if lab.plan.memory_of_all else [])]:
        lab.measure("warm", server, _first(lab, server, seconds=min(1.0, lab.plan.seconds)))
        lab.settle(server)
        before = server.memory_kib
        with lab.held(server, lab.plan.many_streams) as opened:
            time.sleep(0.5)
            after = server.memory_kib
        kib = (after - before) / opened if opened else None
        lab.runs["idle"][server.name].append({"open": opened, "kib_per_stream": kib})
        lab.run.say(f"idle     {server.name:14} {opened} open, {kib or 0:.1f} KiB each")


def _database(lab: Lab) -> None:
    """Turns with PostgreSQL, and as many without: it stops before the window of the first of them begins."""
    server = lab.ours.server
    job = _first(lab, server)
    turns = lab.plan.database_turns
    for _ in range(turns):
        lab.measure("db-up", server, job)
    stopping = threading.Timer(lab.plan.warm_s / 2, lab.ours.stop_database)
    stopping.start()
    for _ in range(turns):
        lab.measure("db-down", server, job)
    stopping.join()
    lab.ours.start_database()
    time.sleep(lab.plan.pause_s)
    lab.settle(server)
