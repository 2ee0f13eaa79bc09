"""Honest streams while strangers throw at gateway and neuron what they can: python -m bench.siege

    minutes                  of all of it; half of it is without strangers
    requests, attacks        honest requests, and attacks by their names
    lost                     honest requests that ended in neither an answer nor an error to act on
    stuck                    1 if gateway or neuron does not answer a request afterwards
    gap_p99_ms               between two pieces of a stream with text: alone, beside a plain load, besieged
    first_p99_ms             from request to the first of them, likewise
    gap_p99_over_alone       the last over the first
    gap_p99_over_loaded      the last over that beside the load: on a machine of few cores what the strangers'
                             own process computes, and what is computed for them elsewhere, costs the streams
                             their share of the cores; the load's processes compute as much and no more
    plain_load               shares of a core that they took
    rss_growth_mib           of each kind of process, the most that one of them had over its start
    worker_deaths            processes of gateway and neuron that ended, those of the sandbox aside
    answers                  what the attacks were answered, by status; 0: the connection was ended
    details                  a line for each that was lost

Gateway, neuron and the strangers each run in a session of their own, as services and other machines do: else
a kernel that shares its cores among sessions would have the strangers, and the clients that measure, compute
at the expense of the one server that is in their session. The strangers' session is nice.

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bench import command
from bench.chaos.world import KV_MB, Scale, World, world
from bench.siege.honest import Honest
from bench.siege.memory import Watch
from bench.siege.plain_load import plain_load
from neuron.models.tiny import WEIGHTS_DIR

ALONE_SHARE = LOADED_SHARE = 1 / 4  # of the time
SCALE = Scale(neurons=1, gateways=1, models=1, clients=4, memory_mb=4000)
MODEL = "m0"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, help="default: 2, with --quick 1")


def measure(run: command.Run) -> dict[str, Any]:
    asked = run.options.minutes
    seconds = run.pick(120.0, 60.0, 6.0) if asked is None else 60 * asked
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with world(SCALE, folder, WEIGHTS_DIR, KV_MB) as fleet:
            run.say(f"the house is up after {run.budget.elapsed:.0f} s")
            return asyncio.run(_besiege(fleet, folder, seconds))


async def _besiege(fleet: World, folder: Path, seconds: float) -> dict[str, Any]:
    honest = Honest(fleet.api_urls[0], MODEL)
    await honest.drive(3.0)  # loads the model and warms up
    watch = Watch({"gateway": fleet.gateways[0].process, "neuron": fleet.neurons[0].process})
    watching = asyncio.create_task(watch.run())  # all the time: it takes some from the clients here
    honest.reset()
    usual = await _drive(honest, watch, seconds * ALONE_SHARE)
    alone, first_alone = honest.take_p99_ms()
    besieged_s = seconds * (1 - ALONE_SHARE - LOADED_SHARE)
    with _attackers(fleet, folder, besieged_s) as attackers:
        taken = await _drive(honest, watch, besieged_s)
        told = await asyncio.to_thread(attackers.communicate)
    attacks = json.loads(told[0])
    besieged, first_besieged = honest.take_p99_ms()
    is_stuck = not await _answers(fleet)
    shares = [share - usual.get(pid, 0.0) for pid, share in taken.items()]
    with plain_load(shares):
        await honest.drive(seconds * LOADED_SHARE)
    loaded, first_loaded = honest.take_p99_ms()
    watching.cancel()
    return {
        "minutes": seconds / 60,
        "requests": honest.requests,
        "attacks": attacks["attacks"],
        "lost": len(honest.lost),
        "stuck": int(is_stuck),
        "gap_p99_ms": [alone, loaded, besieged],
        "first_p99_ms": [first_alone, first_loaded, first_besieged],
        "gap_p99_over_alone": besieged / alone if alone and besieged else None,
        "gap_p99_over_loaded": besieged / loaded if loaded and besieged else None,
        "plain_load": sum(share for share in shares if share > 0),
        "rss_growth_mib": watch.growth_mib(),
        "worker_deaths": watch.deaths(),
        "answers": attacks["answers"],
        "details": honest.lost[:20],
    }


async def _drive(honest: Honest, watch: Watch, seconds: float) -> dict[int, float]:
    """Stream that long; return the share of a core that each process took meanwhile."""
    before, started = watch.cpu_seconds(), time.monotonic()
    await honest.drive(seconds)
    took_s = time.monotonic() - started
    return {pid: (spent - before.get(pid, 0.0)) / took_s for pid, spent in watch.cpu_seconds().items()}


@contextmanager
def _attackers(fleet: World, folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process of their own: their work is not to slow the honest ones' measuring."""
    addresses = ["--gateway", fleet.api_urls[0], "--neuron", fleet.neuron_urls[0]]
    options = [*addresses, "--seconds", str(seconds), "--model", MODEL, "--folder", str(folder)]
    command = [sys.executable, "-m", "bench.siege.strangers", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _answers(fleet: World) -> bool:
    """Whether both still answer a chat, within a minute."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 3}
    left = [f"{url}/v1/chat/completions" for url in (fleet.api_urls[0], fleet.neuron_urls[0])]
    until = time.monotonic() + 60
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        while left and time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if (await http.post(left[0], json=body)).status_code == httpx.codes.OK:
                    left.pop(0)
                    continue
            await asyncio.sleep(0.5)
    return not left


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        command.run("siege", __doc__, measure, add_options=add_options)
