"""Reads the images of requests on a thread of its own, so that no stream waits for a file to be unpacked."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from neuron.pipe import Look, Looked, Refused

if TYPE_CHECKING:
    from neuron.models.image_processor import ImageProcessor
    from neuron.models.pixel_cache import Pixels

log = logging.getLogger("neuron.worker")

RETRY_AFTER_S = 5
MAX_PENDING = 64  # requests whose images are still to be read
MAX_PENDING_BYTES = 256 << 20  # their files; one request alone may have more


class ImageThread:
    """`begin` and `end` are the device thread's; `deliver` is called on the looker's own."""

    def __init__(self, deliver: Callable[[Looked | Refused], None]) -> None:
        self._deliver = deliver
        # Weakly: a model that is unloaded meanwhile goes at once.
        self._queue: queue.SimpleQueue[tuple[Look, weakref.ref[ImageProcessor]]] = queue.SimpleQueue()
        self._pending: dict[int, int] = {}  # bytes of the files, by request
        self._thread: threading.Thread | None = None

    def enqueue(self, look: Look, processor: ImageProcessor) -> bool:
        """Have the answer delivered; False when too much is waiting for that."""
        num_bytes, waiting = sum(map(len, look.images)), sum(self._pending.values())
        if len(self._pending) >= MAX_PENDING or (waiting and waiting + num_bytes > MAX_PENDING_BYTES):
            return False
        self._pending[look.id] = num_bytes
        self._queue.put((look, weakref.ref(processor)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="images", daemon=True)
            self._thread.start()
        return True

    def pop(self, request: int) -> bool:
        """Its answer came, or is of no interest any more; False when nobody waits for one."""
        return self._pending.pop(request, None) is not None

    def _run(self) -> None:
        while True:
            look, processor = self._queue.get()
            if look.id in self._pending:
                self._deliver(_answer(look, processor()))
            del look


def _answer(look: Look, processor: ImageProcessor | None) -> Looked | Refused:
    if processor is None:
        return Refused(look.id, 503, "model_unloaded", f"{look.model} was unloaded", RETRY_AFTER_S)
    return _process(look, processor)


def _process(look: Look, processor: ImageProcessor) -> Looked | Refused:
    from neuron.models.image_processor import UnreadableImageError  # noqa: PLC0415
    from neuron.models.pixel_cache import PixelCacheFullError  # noqa: PLC0415 - loaded: there is a processor

    shown: list[Pixels] = []
    problem = ""
    try:
        for data in look.images:
            shown.append(_fitting(processor.process(data), shown))
    except UnreadableImageError as error:
        problem = str(error)
    except PixelCacheFullError:
        message = "too many images are held by requests under way"
        return Refused(look.id, 429, "queue_full", message, RETRY_AFTER_S)
    except Exception as error:
        log.exception("an image could not be read", extra={"model": look.model})
        problem = f"the model's processor failed: {type(error).__name__}"
    processor.keep(shown)
    seen = [(each.placeholder.digest, each.placeholder.text, each.placeholder.num_tokens) for each in shown]
    return Looked(look.id, seen, problem)


def _fitting(pixels: Pixels, shown: Sequence[Pixels]) -> Pixels:
    """`pixels`, if there is room for them and for those before them in one request."""
    from neuron.models.image_processor import UnreadableImageError  # noqa: PLC0415
    from neuron.models.pixel_cache import MAX_PIXEL_BYTES  # noqa: PLC0415 - loaded: there is a processor

    if sum(other.num_bytes for other in shown) + pixels.num_bytes > MAX_PIXEL_BYTES:
        raise UnreadableImageError(
            f"with those before it there are more than {MAX_PIXEL_BYTES >> 20} MiB of pixels"
        )
    return pixels
