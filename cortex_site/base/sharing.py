"""How the workers of one listening socket share its connections.

Each of them is woken by a new connection, and the first to run would take it: the one on the idlest core
takes nearly all. So the workers write in a table, in memory that all of them map, how many connections each
has open, and one with more than its share leaves the next to others, for a moment.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from collections.abc import Callable
from typing import IO

HEARD_S = 3.0  # a worker that has said nothing for so long is not waited for
PLACE = 16  # bytes of a worker in the table: the number of its connections, and when it said so


def make_table(workers: int) -> IO[bytes]:
    """The file of a table for so many workers. It has no name: whoever is to map it inherits it."""
    table = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as they are started
    table.truncate(workers * PLACE)
    return table


class Share:
    """One worker's place among those of the file `fd`, whose size says how many they are."""

    def __init__(self, fd: int, place: int, clock: Callable[[], float] = time.monotonic) -> None:
        places = memoryview(mmap.mmap(fd, 0)).cast("d")
        self._counts, self._times = places[::2], places[1::2]
        self._place = place
        self._clock = clock
        self._has_left = False

    def say(self, count: int) -> None:
        """Tell the others how many connections this worker has."""
        if self._has_left:
            return
        self._counts[self._place] = count
        self._times[self._place] = self._clock()

    def leave(self) -> None:
        """Take no connection any more: nobody waits for this worker."""
        self._has_left = True
        self._times[self._place] = 0.0

    @property
    def is_full(self) -> bool:
        """Whether another worker, heard lately, has clearly fewer connections than this one."""
        since, own = self._clock() - HEARD_S, self._counts[self._place]
        places = zip(self._counts, self._times, strict=True)
        least = min((count for count, at in places if at > since), default=own)
        return own > least + least // 8
