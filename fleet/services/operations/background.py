"""A long call to a node, made on the side while the operation's lease is kept alive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Event, Thread

from django.conf import settings


class BackgroundCall:
    """`function` in a thread of its own, which nobody waits for once the caller has lost interest."""

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
        """Sleep a moment, or less if the call ends; whether it has ended."""
        if self._future.done():
            Event().wait(settings.LOOK_EVERY_S)
        else:
            wait([self._future], timeout=settings.LOOK_EVERY_S)
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """What the call raised; None while it runs and when it went well."""
        return self._future.exception() if self._future.done() else None
