"""What must hold once the faults are over and the fleet has had time to settle."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from bench.chaos.world import ENGINE, World
from fleet.operations import ACTIVE

SETTLE_S = 120.0

_ACTIVE = f"""select kind, model, node, state, message from fleet_operation
              where state in {tuple(map(str, ACTIVE))}"""  # noqa: S608 - constants
_UNDER_WAY = """select p.model, n.name, p.state from fleet_placement p join fleet_node n on n.id = p.node_id
                where p.state in ('loading', 'unloading')"""
_RESTING = """select n.name, p.model, p.state from fleet_placement p join fleet_node n on n.id = p.node_id
              where p.state in ('loaded', 'asleep')"""


def settle(world: World, within_s: float = SETTLE_S) -> list[str]:
    """What is still under way when everything else is done, `within_s` seconds later at most."""
    for number, neuron in enumerate(world.neurons):
        neuron.wait_for(world.is_ready, number)
    for number, gateway in enumerate(world.gateways):
        gateway.wait_for(world.is_serving, number)
    deadline = time.monotonic() + within_s
    while (stuck := _under_way(world)) and time.monotonic() < deadline:
        time.sleep(1)
    return stuck


def disagreements(world: World) -> list[str]:
    """Models that are on a node twice, or that the database believes loaded or asleep where they are not."""
    found: list[str] = []
    believed = {(row[0], row[1], row[2]) for row in _query(world, _RESTING)}
    actual: set[tuple[str, str, str]] = set()
    for number in range(world.scale.neurons):
        models = [model for model in world.models_on(number) if model["state"] in {"loaded", "asleep"}]
        counts = Counter(model["id"] for model in models)
        found += [f"{name} is {count} times on n{number}" for name, count in counts.items() if count > 1]
        actual |= {(f"n{number}", model["id"], model["state"]) for model in models}
    return found + [
        f"{model} {state} on {node}: database and node disagree" for node, model, state in believed ^ actual
    ]


def times_slept(world: World) -> int:
    """How often a model fell asleep, as the neurons logged it."""
    return sum(neuron.log.read_text().count('"model fell asleep"') for neuron in world.neurons)


def strays(world: World) -> list[str]:
    """Servers of managed engines that no node knows, and models of theirs without one."""
    folder = str(world.engine_model)
    servers = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            servers += folder in words and "-c" not in words  # which is the guard's own
    models = [model for number in range(world.scale.neurons) for model in world.models_on(number)]
    known = sum(model["harness"] == ENGINE and model["state"] in {"loaded", "asleep"} for model in models)
    return [f"{servers} servers of managed engines, and {known} models of theirs"] if servers != known else []


def unanswered(world: World) -> list[str]:
    """The models that do not answer when they are asked once more."""
    found = ((f"m{number}", _ask(world, number)) for number in range(world.scale.models))
    return [f"{model}: {problem}" for model, problem in found if problem]


def _ask(world: World, number: int) -> str:
    url = f"{world.api_urls[number % len(world.api_urls)]}/v1/chat/completions"
    message = {"role": "user", "content": "Once more."}
    try:
        answer = httpx.post(
            url, json={"model": f"m{number}", "max_tokens": 2, "messages": [message]}, timeout=120
        )
    except httpx.HTTPError as error:
        return repr(error)
    return "" if answer.status_code == httpx.codes.OK else f"{answer.status_code} {answer.text[:300]}"


def accounts(world: World) -> dict[str, Any]:
    """How many finished requests the gateways logged, and how many the database has."""
    logged = sum(_logged(gateway.log) for gateway in world.gateways)
    deadline = time.monotonic() + 20
    while (stored := _query(world, "select count(*) from fleet_requestmetric")[0][0]) < logged:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return {"logged": logged, "recorded": stored}


def _under_way(world: World) -> list[str]:
    return [" ".join(map(str, row)) for sql in (_ACTIVE, _UNDER_WAY) for row in _query(world, sql)]


def _query(world: World, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(world.database) as connection:
        return connection.execute(sql).fetchall()  # type: ignore[arg-type]


def _logged(path: Path) -> int:
    count = 0
    for line in path.read_text().splitlines():
        if '"request"' in line:
            entry = json.loads(line)
            count += entry["logger"] == "cortex.request" and entry["message"] == "request"
    return count
