"""The event loop's thread asks for short turns; nobody else gets them by that."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cortex_site.base.scheduling import SLICE_NS, wake_promptly


def _slice_ns() -> int | None:
    """The calling thread's, as the kernel shows it; None where it does not."""
    found = re.search(r"^se\.slice\s*:\s*(\d+)$", Path("/proc/thread-self/sched").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def _in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_thread_has_short_turns_and_what_it_starts_has_not() -> None:
    usual, seen = _slice_ns(), list[int | None]()
    if usual is None:
        pytest.skip("this kernel shows no turns")

    def ask() -> None:
        wake_promptly()
        seen.append(_slice_ns())
        _in_a_thread(lambda: seen.append(_slice_ns()))

    _in_a_thread(ask)
    if seen[0] == usual:
        pytest.skip("this kernel knows no turns of a thread's own, or allows none")
    assert seen == [SLICE_NS, usual]
    assert _slice_ns() == usual
