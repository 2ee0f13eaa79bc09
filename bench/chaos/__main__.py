"""A real fleet under traffic while its parts are killed at random.

    python -m bench.chaos [--minutes 2] [--seed 0] [--json] [--keep DIR]

The last line is one JSON object: `requests`, `outcomes`, `codes` of the errors, `faults`, and what must be
zero: `lost` requests, `stuck` placements and operations, `disagreements` between database and nodes,
`unanswered` models after the storm. `logged` and `recorded` requests differ by what killed gateways had not
stored yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench.chaos import audit
from bench.chaos.model import make_model
from bench.chaos.traffic import Tally, drive
from bench.chaos.world import GATEWAYS, NEURONS, World, world

CALM_S = (2.0, 7.0)  # between two faults
AWAY_S = (0.5, 3.0)  # until what was killed is started again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object on stdout")
    parser.add_argument("--keep", type=Path, help="run in this folder and leave logs and database there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        model, size_mb = make_model(folder / "model")
        with world(folder, model, size_mb) as fleet:
            report = asyncio.run(storm(fleet, 60 * arguments.minutes, arguments.seed))
    if not arguments.json:
        for line in report["details"]:
            print(line, file=sys.stderr)
    print(json.dumps(report))


async def storm(fleet: World, seconds: float, seed: int) -> dict[str, Any]:
    """Traffic and faults for `seconds`, then the audit."""
    tally, faults = Tally(), Counter[str]()
    until = time.monotonic() + seconds
    breaking = asyncio.create_task(_break_things(fleet, faults, random.Random(seed), until))  # noqa: S311
    await drive(fleet, tally, seed, until)
    await breaking
    stuck = audit.settle(fleet)
    found = audit.disagreements(fleet)
    unanswered = audit.unanswered(fleet)
    return {
        "minutes": round(seconds / 60, 2),
        "seed": seed,
        "requests": tally.requests,
        "outcomes": dict(tally.outcomes),
        "codes": {code: count for code, count in tally.codes.items() if count},
        "faults": dict(faults),
        "lost": len(tally.lost),
        "stuck": len(stuck),
        "disagreements": len(found),
        "unanswered": len(unanswered),
        **audit.accounts(fleet),
        "details": [*tally.lost, *stuck, *found, *unanswered],
    }


async def _break_things(fleet: World, faults: Counter[str], dice: random.Random, until: float) -> None:
    """One fault after the other; each is mended before the next, or by its own supervisor meanwhile."""
    while True:
        await asyncio.sleep(dice.uniform(*CALM_S))
        if time.monotonic() > until:
            return
        name, fault = dice.choice(_faults(fleet, dice))
        faults[name] += 1
        mend = await asyncio.to_thread(fault)
        if mend is not None:
            await asyncio.sleep(dice.uniform(*AWAY_S))
            await asyncio.to_thread(mend)


def _faults(fleet: World, dice: random.Random) -> list[tuple[str, Callable[[], Callable[[], None] | None]]]:
    neuron, gateway = dice.randrange(NEURONS), dice.randrange(GATEWAYS)
    return [
        ("neuron", partial(fleet.kill_neuron, neuron)),
        ("device worker", partial(fleet.kill_device_worker, neuron)),
        ("tasks", partial(fleet.kill_tasks, gateway)),
        ("gateway worker", partial(fleet.kill_gateway_worker, gateway)),
        ("gateway", partial(fleet.kill_gateway, gateway)),
        ("redis", fleet.kill_redis),
    ]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
