"""Reads the images of requests on a thread of its own, so that no stream waits for a file to be unpacked."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from neuron.pipe import Look, Looked, Refused

if TYPE_CHECKING:
    from neuron.models.vision import Eyes

log = logging.getLogger("neuron.worker")

RETRY_AFTER_S = 5
MAX_PENDING = 64  # requests whose images are still to be read


class Looker:
    """`begin` is the device thread's; `deliver` is called on the looker's own."""

    def __init__(self, deliver: Callable[[Looked | Refused], None]) -> None:
        self._deliver = deliver
        self._wishes: queue.Queue[tuple[Look, Eyes]] = queue.Queue(MAX_PENDING)
        self._thread: threading.Thread | None = None

    def begin(self, look: Look, eyes: Eyes) -> bool:
        """Have the answer delivered; False when too many are waiting for that."""
        try:
            self._wishes.put_nowait((look, eyes))
        except queue.Full:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="images", daemon=True)
            self._thread.start()
        return True

    def _run(self) -> None:
        while True:
            self._deliver(_look(*self._wishes.get()))


def _look(look: Look, eyes: Eyes) -> Looked | Refused:
    from neuron.models.vision import CrowdedError, UnreadableImageError  # noqa: PLC0415 - loaded: there are eyes

    seen: list[tuple[bytes, str, int]] = []
    for data in look.images:
        try:
            found = eyes.look(data)
        except UnreadableImageError as error:
            return Looked(look.id, seen, str(error))
        except CrowdedError:
            message = "too many images are held by requests under way"
            return Refused(look.id, 429, "queue_full", message, RETRY_AFTER_S)
        except Exception as error:
            log.exception("an image could not be read", extra={"model": look.model})
            return Looked(look.id, seen, f"the model's processor failed: {error}")
        seen.append((found.digest, found.text, found.num_tokens))
    return Looked(look.id, seen)
