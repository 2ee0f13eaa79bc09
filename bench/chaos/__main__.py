"""A real fleet under traffic while its parts are killed at random: python -m bench.chaos

    minutes, seed   of the storm
    requests        how many were sent
    outcomes        ok, cancelled by the client, retryable, cut_off with a killed gateway, lost
    codes           of the errors
    faults          what was killed, and how often
    lost            requests that ended in neither an answer nor an error that a client can act on
    stuck           placements and operations that are still under way after the storm
    disagreements   between the database and the nodes, and between nodes and the processes of their engines
    unanswered      models that do not answer after the storm
    slept           how often a model fell asleep in a node's host memory
    logged          requests that the gateways logged
    recorded        requests that the database has: fewer by what killed gateways had not stored yet
    details         a line for each of what is lost, stuck, in disagreement or unanswered, which must be zero

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench import command
from bench.chaos import audit
from bench.chaos.model import make_model
from bench.chaos.traffic import Tally, drive
from bench.chaos.world import KV_MB, Scale, World, world
from neuron.models.tiny import WEIGHTS_DIR

CALM_S = (2.0, 7.0)  # between two faults
AWAY_S = (0.5, 3.0)  # until what was killed is started again
AFTER_S = 60.0  # that a quick run keeps for what comes after the storm
LEAST_S = 2.0
SMOKE = Scale(neurons=1, gateways=1, models=3, devices=1, clients=2, memory_mb=4000)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, help="default: 2, with --quick 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="run in this folder and leave logs and database there")


def measure(run: command.Run) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        folder = run.options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        is_smoke = run.size is command.Size.SMOKE
        model, size_mb = (WEIGHTS_DIR, KV_MB) if is_smoke else make_model(folder / "model")
        with world(SMOKE if is_smoke else Scale(), folder, model, size_mb) as fleet:
            run.say(f"the fleet is up after {run.budget.elapsed:.0f} s")
            return asyncio.run(storm(run, fleet))


def _storm_s(run: command.Run) -> float:
    """How long the storm lasts: as asked for, less what the budget lacks."""
    asked = run.pick(120.0, 60.0, 2.0) if run.options.minutes is None else 60 * run.options.minutes
    seconds = min(asked, max(run.budget.left - run.pick(AFTER_S, AFTER_S, 0.0), LEAST_S))
    if seconds < asked:
        run.budget.shortened.append(f"the storm: {seconds:.0f} of {asked:.0f} s")
    return seconds


async def storm(run: command.Run, fleet: World) -> dict[str, Any]:
    """Traffic and faults, then the audit."""
    seconds, seed = _storm_s(run), run.options.seed
    tally, faults = Tally(), Counter[str]()
    until = time.monotonic() + seconds
    calm_s = run.pick(CALM_S, CALM_S, (0.5, 0.9))
    breaking = asyncio.create_task(_break_things(fleet, faults, random.Random(seed), until, calm_s))  # noqa: S311
    await drive(fleet, tally, seed, until)
    await breaking
    stuck = audit.settle(fleet)
    found = audit.disagreements(fleet) + audit.strays(fleet)
    unanswered = audit.unanswered(fleet)
    return {
        "minutes": seconds / 60,
        "seed": seed,
        "requests": tally.requests,
        "outcomes": dict(tally.outcomes),
        "codes": {code: count for code, count in tally.codes.items() if count},
        "faults": dict(faults),
        "lost": len(tally.lost),
        "stuck": len(stuck),
        "disagreements": len(found),
        "unanswered": len(unanswered),
        "slept": audit.times_slept(fleet),
        **audit.accounts(fleet),
        "details": [*tally.lost, *stuck, *found, *unanswered],
    }


async def _break_things(
    fleet: World, faults: Counter[str], dice: random.Random, until: float, calm_s: tuple[float, float]
) -> None:
    """One fault after the other. Each is mended before the next one, or meanwhile by its supervisor."""
    while True:
        await asyncio.sleep(dice.uniform(*calm_s))
        if time.monotonic() > until:
            return
        name, fault = dice.choice(_faults(fleet, dice))
        faults[name] += 1
        mend = await asyncio.to_thread(fault)
        if mend is not None:
            await asyncio.sleep(dice.uniform(*AWAY_S))
            await asyncio.to_thread(mend)


def _faults(fleet: World, dice: random.Random) -> list[tuple[str, Callable[[], Callable[[], None] | None]]]:
    neuron, gateway = dice.randrange(fleet.scale.neurons), dice.randrange(fleet.scale.gateways)
    return [
        ("neuron", partial(fleet.kill_neuron, neuron)),
        ("device worker", partial(fleet.kill_device_worker, neuron)),
        ("engine", partial(fleet.kill_engine, neuron)),
        ("tasks", partial(fleet.kill_tasks, gateway)),
        ("gateway worker", partial(fleet.kill_gateway_worker, gateway)),
        ("gateway", partial(fleet.kill_gateway, gateway)),
        ("redis", fleet.kill_redis),
    ]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        command.run("chaos", __doc__, measure, add_options=add_options)
