"""A long call to a node in a thread of its own, while the caller keeps its lease alive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Event, Thread

from django.conf import settings


class BackgroundCall:
    """`function`, running in a daemon thread; a caller that has lost interest just drops it."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._future: Future[None] = Future()
        Thread(target=self._run, args=[function], name="node-call", daemon=True).start()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
            self._future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the caller sees it in `error`
            self._future.set_exception(error)

    def pause(self) -> bool:
        """Wait `LOOK_EVERY_S` at most for the call to end, and return whether it has."""
        if self._future.done():
            Event().wait(settings.LOOK_EVERY_S)  # the caller looks at the node again, and not at once
        else:
            wait([self._future], timeout=settings.LOOK_EVERY_S)
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """What the call raised; None while it runs and if it succeeded."""
        if not self._future.done():
            return None
        return self._future.exception()
