"""Settings of the interpreter for processes that start quickly, and for event loops that do not wait."""

from __future__ import annotations

import gc
import sys

from cortex_site.base.scheduling import wake_promptly

SWITCH_INTERVAL_S = 0.0005  # the longest time that another thread holds up the event loop
COLLECT_AFTER = 20_000  # new objects: what starts leaves none in cycles, so collecting seldom frees any
SMALL_STEPS = 2_000, 5, 200  # the same for each generation: 0.1 ms, 1 to 3 ms, and all as seldom as before


def favour_start() -> None:
    """Collect garbage less often, from before the imports on: of what they make, nothing is garbage.

    By itself Python collects during them as often as every 700 objects, a fifth of the time that they take.
    """
    gc.set_threshold(COLLECT_AFTER)


def collect_in_small_steps() -> None:
    """Leave what exists now to live for ever, and collect the rest often and little by little.

    Each collection stops the event loop. After 20,000 new objects one of the young ones takes 2 ms, and every
    tenth, of those that survived, 80 ms while thousands of streams begin.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SMALL_STEPS)


def favour_event_loop() -> None:
    """Let other threads give way sooner, and collect garbage less often, than happens by itself.

    A thread that computes takes the interpreter's lock whenever the loop's thread makes a system call, and
    gives it back after the switch interval: 5 ms unless it is set.
    """
    wake_promptly()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    favour_start()
