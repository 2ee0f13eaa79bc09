"""A progress bar that nobody sees: through it the hub's library says how much has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from neuron.transfers import Transfer


def bar_of(transfer: Transfer, missing: Callable[[], int]) -> type[tqdm]:
    """Return the class of bars whose bytes `transfer` counts; `missing` says how many are to come.

    The library makes a bar for files, one for bytes that are written and, in newer versions, one for bytes of
    the network, which may be fewer. They raise `DownloadCancelledError`, which ends the thread that counts.
    """

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **kwargs | {"disable": False, "file": _Nowhere()})

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Show nothing."""

        def refresh(self, *args: Any, **kwargs: Any) -> None:
            """Show nothing; a file that is begun after the end ends here."""
            transfer.check()

        def update(self, n: float | None = 1) -> bool | None:
            transfer.check()
            shown: bool | None = super().update(n)
            if self._counts and n:
                transfer.done_bytes = max(transfer.done_bytes, int(self.n))
                transfer.total_bytes = transfer.total_bytes or missing()
                transfer.total_bytes = max(transfer.total_bytes, int(self.total or 0), int(self.n))
            return shown

    return Bar


class _Nowhere:
    """A file that is written to by nobody who expects anything of it."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False
