"""Images before their request: who holds their pixels, and what is answered when there are too many."""

from __future__ import annotations

import queue
from typing import Any

import pytest
import torch

from neuron.models import pixel_cache
from neuron.models.image_input import PixelCacheFullError, Pixels
from neuron.models.pixel_cache import PixelCache
from neuron.pipe import ImagePlaceholder, ImagesProcessed, ProcessImages, Refused
from neuron.worker import image_thread
from neuron.worker.image_thread import ImageThread

SIZE = 400  # bytes


def pixels(name: str) -> Pixels:
    return Pixels(ImagePlaceholder(name.encode(), f"<{name}>", 1), {"pixel_values": torch.zeros(SIZE // 4)})


class FakeImageProcessor:
    """Makes pixels of any file but an empty one. Waits for `gate` if there is one."""

    def __init__(self) -> None:
        self.cache = PixelCache()
        self.gate: queue.SimpleQueue[None] | None = None
        self.begun: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def process(self, data: bytes) -> Pixels:
        self.begun.put(data)
        if self.gate:
            self.gate.get(timeout=60)
        if not data:
            raise ZeroDivisionError
        if found := self.cache.find(data):
            return found
        self.cache.make_room()
        made = pixels(data.decode())
        self.cache.add(made)
        return made

    def keep(self, shown: list[Pixels]) -> None:
        self.cache.keep(shown)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache, "CACHE_BYTES", 2 * SIZE)
    monkeypatch.setattr(pixel_cache, "MAX_PIXEL_BYTES", 4 * SIZE)


class Desk:
    """The device thread's side of an `ImageThread`."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = ImageThread(self.answers.put)

    def ask(self, processor: Any, *images: bytes, number: int = 1) -> ImagesProcessed | Refused:
        assert self.thread.enqueue(ProcessImages(number, "m", list(images)), processor)
        answer: ImagesProcessed | Refused = self.answers.get(timeout=60)
        assert self.thread.pop(number)
        return answer


def names(answer: Any) -> list[bytes]:
    return [placeholder.digest for placeholder in answer.placeholders]


@pytest.mark.usefixtures("small")
def test_the_pixel_cache_drops_the_oldest_and_finds_what_anybody_holds():
    held, made = pixels("a"), PixelCache()
    for each in (held, pixels("b"), pixels("c")):
        made.add(each)
        made.keep([each])
    del each
    made.keep([made.find(b"b")])
    last = pixels("d")
    made.add(last)
    made.keep([last])
    assert made.find(b"a") is held
    assert made.find(b"b")
    assert made.find(b"c") is None
    del held
    assert made.find(b"a") is None


@pytest.mark.usefixtures("small")
def test_a_request_with_more_images_than_the_cache_holds_finds_all_of_them():
    processor, desk = FakeImageProcessor(), Desk()
    assert names(desk.ask(processor, b"a", b"b", b"c", b"d")) == [b"a", b"b", b"c", b"d"]
    assert all(processor.cache.find(name) for name in (b"a", b"b", b"c", b"d"))
    desk.ask(processor, b"e", number=2)
    assert processor.cache.find(b"a") is None


@pytest.mark.usefixtures("small")
def test_unused_pixels_make_room_for_new_ones():
    processor, desk = FakeImageProcessor(), Desk()
    for number in range(5):
        answer = desk.ask(processor, *(f"{number}{name}".encode() for name in "abcd"), number=number)
        assert len(names(answer)) == 4


@pytest.mark.usefixtures("small")
def test_images_are_refused_while_requests_hold_too_many_pixels():
    processor, desk = FakeImageProcessor(), Desk()
    held = [pixels(name) for name in "vwxyz"]
    for each in held:
        processor.cache.add(each)
    answer = desk.ask(processor, b"a")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.code) == (429, "queue_full")
    with pytest.raises(PixelCacheFullError):
        processor.cache.make_room()
    del held, each
    assert names(desk.ask(processor, b"a")) == [b"a"]


def test_the_first_image_beyond_the_limit_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pixel_cache, "MAX_PIXEL_BYTES", 2 * SIZE)
    answer = Desk().ask(FakeImageProcessor(), b"a", b"b", b"c")
    assert isinstance(answer, ImagesProcessed)
    assert names(answer) == [b"a", b"b"]
    assert "more than 0 MiB" in answer.problem


def test_a_processor_that_fails_fails_its_image():
    answer = Desk().ask(FakeImageProcessor(), b"a", b"")
    assert isinstance(answer, ImagesProcessed)
    assert (names(answer), answer.problem) == ([b"a"], "the model's processor failed: ZeroDivisionError")


def test_pending_images_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_thread, "MAX_PENDING", 3)
    monkeypatch.setattr(image_thread, "MAX_PENDING_BYTES", 10)
    processor, desk = FakeImageProcessor(), Desk()
    processor.gate = queue.SimpleQueue()
    assert desk.thread.enqueue(ProcessImages(1, "m", [b"x" * 20]), processor)  # alone, however large
    assert not desk.thread.enqueue(ProcessImages(2, "m", [b"x"]), processor)
    assert desk.thread.pop(1)
    admitted = [desk.thread.enqueue(ProcessImages(number, "m", [b"x"]), processor) for number in (3, 4, 5, 6)]
    assert admitted == [True, True, True, False]
    for _ in range(4):
        processor.gate.put(None)


def test_images_of_a_cancelled_request_are_not_processed():
    processor, desk = FakeImageProcessor(), Desk()
    processor.gate = queue.SimpleQueue()
    for number, name in enumerate((b"a", b"b", b"c")):
        assert desk.thread.enqueue(ProcessImages(number, "m", [name]), processor)
    assert processor.begun.get(timeout=60) == b"a"
    assert desk.thread.pop(1)
    processor.gate.put(None)
    processor.gate.put(None)
    assert [desk.answers.get(timeout=60).id for _ in range(2)] == [0, 2]
    assert processor.begun.get(timeout=60) == b"c"
    assert not desk.thread.pop(1)


def test_pending_images_do_not_keep_an_unloaded_model():
    processor, gone, desk = FakeImageProcessor(), FakeImageProcessor(), Desk()
    processor.gate = queue.SimpleQueue()
    assert desk.thread.enqueue(ProcessImages(1, "m", [b"a"]), processor)
    assert desk.thread.enqueue(ProcessImages(2, "gone", [b"b"]), gone)
    del gone
    processor.gate.put(None)
    assert names(desk.answers.get(timeout=60)) == [b"a"]
    answer = desk.answers.get(timeout=60)
    assert (answer.id, answer.status, answer.code) == (2, 503, "model_unloaded")
