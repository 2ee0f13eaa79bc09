"""Processes the images of requests on a thread of its own, so that no stream waits while one is decoded."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence

from neuron.models import pixel_cache
from neuron.models.image_input import ImageProcessor, PixelCacheFullError, Pixels, UnreadableImageError
from neuron.pipe import Embed, ImagesProcessed, ProcessImages, Refused, Submit
from neuron.step import PromptImage

log = logging.getLogger("neuron.worker")

RETRY_AFTER_S = 5
MAX_PENDING = 64  # requests whose images are still to be processed
MAX_PENDING_BYTES = 256 << 20  # of their files; a single request may have more

_Work = tuple[ProcessImages, weakref.ref[ImageProcessor]]


class ImageThread:
    """Methods are for the device's thread; `deliver` is called on the image thread."""

    def __init__(self, deliver: Callable[[ImagesProcessed | Refused], None]) -> None:
        self._deliver = deliver
        # Weak references: a model that is unloaded meanwhile must not be kept.
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._pending: dict[int, int] = {}  # bytes of the files, by request
        self._thread: threading.Thread | None = None

    def enqueue(self, message: ProcessImages, processor: ImageProcessor) -> bool:
        """Have the answer to `message` delivered. Return False when too much waits for that."""
        num_bytes = sum(map(len, message.images))
        num_waiting = sum(self._pending.values())
        is_too_large = num_waiting and num_waiting + num_bytes > MAX_PENDING_BYTES
        if len(self._pending) >= MAX_PENDING or is_too_large:
            return False
        self._pending[message.id] = num_bytes
        self._queue.put((message, weakref.ref(processor)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="images", daemon=True)
            self._thread.start()
        return True

    def pop(self, request_id: int) -> bool:
        """Return whether a request was pending; it is no longer."""
        return self._pending.pop(request_id, None) is not None

    def _run(self) -> None:
        while True:
            message, processor = self._queue.get()
            if message.id in self._pending:
                self._deliver(_answer(message, processor()))
            del message  # its files are large


def _answer(message: ProcessImages, processor: ImageProcessor | None) -> ImagesProcessed | Refused:
    if processor is None:
        return Refused(message.id, 503, "model_unloaded", f"{message.model} was unloaded", RETRY_AFTER_S)
    images: list[Pixels] = []
    problem = ""
    try:
        for data in message.images:
            pixels = processor.process(data)
            _check_size(pixels, images)
            images.append(pixels)
    except UnreadableImageError as error:
        problem = str(error)
    except PixelCacheFullError:
        text = "requests in progress hold too many images"
        return Refused(message.id, 429, "queue_full", text, RETRY_AFTER_S)
    except Exception as error:
        log.exception("an image could not be processed", extra={"model": message.model})
        problem = f"the model's processor failed: {type(error).__name__}"
    processor.keep(images)
    return ImagesProcessed(message.id, [pixels.placeholder for pixels in images], problem)


def _check_size(pixels: Pixels, others: Sequence[Pixels]) -> None:
    """Raise UnreadableImageError if one request would have too many pixels."""
    limit = pixel_cache.MAX_PIXEL_BYTES
    if sum(other.num_bytes for other in others) + pixels.num_bytes > limit:
        message = f"together with the images before it, it has more than {limit >> 20} MiB of pixels"
        raise UnreadableImageError(message)


def prompt_images(message: Submit | Embed, processor: ImageProcessor | None) -> list[PromptImage] | None:
    """Return a request's images with their pixels; None when the pixels of one are gone."""
    images: list[PromptImage] = []
    if processor is None or not isinstance(message, Submit):
        return images
    placeholders = {token.id for token in (processor.token, processor.video_token) if token}
    for shown in message.images:
        pixels = processor.find(shown.digest)
        if pixels is None:
            return None
        inside = range(shown.start, shown.end)
        positions = tuple(at for at in inside if message.tokens[at] in placeholders)
        images.append(PromptImage(positions, shown.digest, pixels))
    return images
