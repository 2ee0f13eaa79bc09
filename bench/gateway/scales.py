"""What our requests a second are with more keys, nodes, models or workers, and through a translation.

Each is measured in short turns, each after one of the plain load; a figure is the median of such pairs. All
pairs of one kind come one after the other, so that nothing but the number of keys, or of nodes and models,
differs within a pair: a connection to a node that rested for 15 s is opened anew, and a fleet that waited for
other loads between its turns began each with hundreds of these, the plain load with at most 32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import psutil

from bench.gateway.lab import Lab
from bench.gateway.mock import ON_A_NODE
from bench.gateway.processes import Server
from bench.gateway.ratios import plain

ANSWERS_S = 90.0


def scales(lab: Lab) -> None:
    """One round after the other, as many as the plan has."""
    plan = lab.plan
    own = lab.ours.server
    with _keys(lab, plan.keys) as keys, lab.another(plan.nodes, plan.models) as fleet:
        _warm(lab, own, plan.keys, keys=str(keys))
        _warm(lab, fleet.server, 5 * plan.nodes * ON_A_NODE, models=plan.models)
        time.sleep(plan.counted_s)
        _pairs(lab, "fleet", replace(fleet.server, name="ours"), models=plan.models)
        _pairs(lab, "keys", own, keys=str(keys))
    _pairs(lab, "translated", own, dialect="messages", verbatim=False)
    for _ in lab.run.budget.rounds(plan.worker_rounds, "two workers"):
        _workers(lab)


def _pairs(lab: Lab, label: str, server: Server, **more: object) -> None:
    """Turns of a load, each after one of the plain load."""
    for _ in lab.run.budget.rounds(lab.plan.scale_rounds, label):
        _json(lab, plain(label), lab.ours.server)
        _json(lab, label, server, **more)


def _workers(lab: Lab) -> None:
    _json(lab, plain("workers"), lab.ours.server)
    with lab.ours.another_worker(lab.cores.second) as both:
        _json(lab, "workers", both, connections=2 * lab.plan.connections)
        _evenness(lab, both)


def _warm(lab: Lab, server: Server, requests: int, **more: object) -> None:
    """Ask so often that each key, or each model on each node, was asked for."""
    job = lab.json_load(server, seconds=0.1, warm_requests=requests, **more)
    lab.generator(job).communicate(timeout=ANSWERS_S)
    lab.settle(server)


def _json(lab: Lab, label: str, server: Server, **more: object) -> None:
    lab.measure(label, server, lab.json_load(server, **more))
    lab.settle(server)


def _evenness(lab: Lab, both: Server) -> None:
    with lab.held(both, lab.plan.shared_streams):
        counts = [_connections(pid, both.port) for pid in both.workers]
    lab.runs["even"][both.name].append({"connections": counts, "evenness": max(counts) / fmean(counts)})
    lab.run.say(f"even     {both.name:14} {counts}")


def _connections(pid: int, port: int) -> int:
    """The connections that a process has with clients."""
    found = psutil.Process(pid).net_connections("tcp4")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)


@contextmanager
def _keys(lab: Lab, count: int) -> Iterator[Path]:
    """The file with so many keys that our gateway knows."""
    with TemporaryDirectory(prefix="cx-") as folder:
        path = Path(folder) / "keys"
        made = lab.ours.make_keys(count)
        path.write_text("\n".join(made))
        replace(lab.ours.server, key=made[-1]).wait_until_it_answers(ANSWERS_S)
        yield path
