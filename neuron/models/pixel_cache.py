"""Pixels of images that were looked at: bounded, and shared by all who show the same image.

    requests under way   hold their own, as long as they may have to be read again
    the gallery          holds the last ones, for the request that is about to come and for the next turn

An image is found as long as anybody holds it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch

MIB = 1 << 20
CACHE_BYTES = 256 * MIB  # beyond it the oldest go, but never those of the last request
MAX_PIXEL_BYTES = 1024 * MIB  # of the gallery and of all requests: beyond it no more are read


class PixelCacheFullError(Exception):
    """The images of the requests under way take all the room there is for images."""


@dataclass(frozen=True, slots=True)
class ImagePlaceholder:
    """An image as a prompt shows it: `text` stands for it, with `num_tokens` placeholders in it."""

    digest: bytes
    text: str
    num_tokens: int


class Pixels:
    """Arguments of the model's `get_image_features`, on the CPU."""

    def __init__(self, placeholder: ImagePlaceholder, tensors: Mapping[str, torch.Tensor]) -> None:
        self.placeholder = placeholder
        self.tensors = tensors
        self.num_bytes = sum(tensor.nbytes for tensor in tensors.values())


class PixelCache:
    """Of one model; for any thread."""

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, Pixels] = OrderedDict()
        self._alive: WeakValueDictionary[bytes, Pixels] = WeakValueDictionary()
        self._lock = threading.Lock()

    def find(self, digest: bytes) -> Pixels | None:
        with self._lock:
            return self._alive.get(digest)

    def make_room(self) -> None:
        """Before another is read. Raises CrowdedError."""
        with self._lock:
            if self._num_alive() > MAX_PIXEL_BYTES:
                self._last.clear()
            if self._num_alive() > MAX_PIXEL_BYTES:
                raise PixelCacheFullError

    def add(self, pixels: Pixels) -> None:
        """They are found from now on, as long as somebody holds them."""
        with self._lock:
            self._alive[pixels.placeholder.digest] = pixels

    def keep(self, shown: Sequence[Pixels]) -> None:
        """Hold the images of one request, which are alive."""
        with self._lock:
            for pixels in shown:
                self._last[pixels.placeholder.digest] = pixels
                self._last.move_to_end(pixels.placeholder.digest)
            kept = len({pixels.placeholder.digest for pixels in shown})
            num_bytes = sum(pixels.num_bytes for pixels in self._last.values())
            while num_bytes > CACHE_BYTES and len(self._last) > kept:
                num_bytes -= self._last.popitem(last=False)[1].num_bytes

    def _num_alive(self) -> int:
        return sum(pixels.num_bytes for pixels in list(self._alive.values()))
