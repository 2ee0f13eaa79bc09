"""Processes that compute as much as those of a siege did, and have nothing to do with anybody."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TURN_S = 0.02
LEAST_SHARE = 0.01  # of a core; less disturbs nobody


@contextmanager
def plain_load(shares: Sequence[float]) -> Iterator[None]:
    """One process for each of `shares`, that of a core which it computes."""
    context = multiprocessing.get_context("spawn")
    burners = [
        context.Process(target=_burn, args=(share,), daemon=True) for share in shares if share > LEAST_SHARE
    ]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _burn(share: float) -> None:
    """Compute until the CPU time used is `share` of the time gone by, rest for a turn, and so on."""
    started, spent = time.monotonic(), time.process_time()
    while True:
        while time.process_time() - spent < share * (time.monotonic() - started):
            pass
        time.sleep(TURN_S)
