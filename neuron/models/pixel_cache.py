"""The pixels of processed images: bounded, and shared by all requests that show the same image.

    requests in progress    hold their own pixels for as long as they may have to read them again
    the cache               holds the latest ones, for the request about to come and for the next turn

An image can be found for as long as anybody holds it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakValueDictionary

from neuron.models.image_input import PixelCacheFullError, Pixels

MIB = 1 << 20
CACHE_BYTES = 256 * MIB  # beyond it the oldest go, but never those of the latest request
MAX_PIXEL_BYTES = 1024 * MIB  # of the cache and of all requests: beyond it no more are read


class PixelCache:
    """The pixels of one model. For any thread."""

    def __init__(self) -> None:
        self._latest: OrderedDict[bytes, Pixels] = OrderedDict()
        self._alive: WeakValueDictionary[bytes, Pixels] = WeakValueDictionary()
        self._lock = threading.Lock()

    def find(self, digest: bytes) -> Pixels | None:
        """Return the pixels of the image with this digest while anybody holds them."""
        with self._lock:
            return self._alive.get(digest)

    def make_room(self) -> None:
        """Make sure that another image may be processed, if need be by dropping what only the cache holds.

        Raises PixelCacheFullError when requests hold too much.
        """
        with self._lock:
            if self._num_alive_bytes() > MAX_PIXEL_BYTES:
                self._latest.clear()
            if self._num_alive_bytes() > MAX_PIXEL_BYTES:
                raise PixelCacheFullError

    def add(self, pixels: Pixels) -> None:
        """Let `find` return the pixels from now on, for as long as anybody holds them."""
        with self._lock:
            self._alive[pixels.placeholder.digest] = pixels

    def keep(self, images: Sequence[Pixels]) -> None:
        """Hold the images of one request, and drop the oldest of others beyond `CACHE_BYTES`."""
        with self._lock:
            for pixels in images:
                self._latest[pixels.placeholder.digest] = pixels
                self._latest.move_to_end(pixels.placeholder.digest)
            num_kept = len({pixels.placeholder.digest for pixels in images})
            num_bytes = sum(pixels.num_bytes for pixels in self._latest.values())
            while num_bytes > CACHE_BYTES and len(self._latest) > num_kept:
                _, oldest = self._latest.popitem(last=False)
                num_bytes -= oldest.num_bytes

    def _num_alive_bytes(self) -> int:
        return sum(pixels.num_bytes for pixels in list(self._alive.values()))
