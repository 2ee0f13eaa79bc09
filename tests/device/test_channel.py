from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from neuron.pipe import Cancel, Shutdown, ToWorker, Unload, Unloaded, decode_to_daemon, frame
from neuron.worker.channel import MAX_UNSENT_BYTES, Channel

DEADLINE_S = 30.0


class Running:
    """A channel whose `run` has a thread of its own, and the daemon's end of its socket."""

    def __init__(self) -> None:
        self.daemon, theirs = socket.socketpair()
        self.daemon.settimeout(DEADLINE_S)
        self.channel = Channel(theirs)
        self.error: Exception | None = None
        self._theirs = theirs
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.channel.run()
        except (msgspec.DecodeError, ValueError) as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def receive(self, count: int) -> list[ToWorker]:
        messages: list[ToWorker] = []
        while len(messages) < count:
            more = self.channel.receive(DEADLINE_S)
            assert more
            messages += more
        return messages

    def close(self) -> None:
        self.daemon.close()
        self.join()
        self._theirs.close()
        self.channel.release()


@pytest.fixture
def running() -> Iterator[Running]:
    started = Running()
    yield started
    started.close()


def test_frames_arrive_whole_however_they_are_cut(running: Running):
    messages = [Cancel(1), Unload("ü" * 300), Cancel(2), Shutdown()]
    data = frame(messages[:2]) + frame([]) + frame(messages[2:])
    for i in range(len(data)):
        running.daemon.sendall(data[i : i + 1])
    assert running.receive(4) == messages
    running.daemon.sendall(data)
    assert running.receive(4) == messages


def test_receive_returns_an_empty_list_when_nothing_has_come(running: Running):
    assert running.channel.receive(0.0) == []
    assert running.channel.receive(0.01) == []


def test_messages_sent_before_close_arrive(running: Running):
    sent = [Unloaded(str(i) * 1000) for i in range(200)]
    for message in sent:
        running.channel.send([message])
    running.channel.close()
    data = bytearray()
    while len(data) < sum(len(frame([message])) for message in sent):
        data += running.daemon.recv(1 << 16)
    assert data == b"".join(frame([message]) for message in sent)
    assert decode_to_daemon(bytes(data[4 : len(frame(sent[:1]))])) == sent[:1]
    running.join()


def test_a_daemon_that_does_not_read_stalls_the_sender(running: Running):
    sent = threading.Semaphore(0)
    big = Unloaded("x" * (MAX_UNSENT_BYTES // 4))

    def send() -> None:
        for _ in range(8):
            running.channel.send([big])
            sent.release()

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(4):
        assert sent.acquire(timeout=DEADLINE_S)
    assert not sent.acquire(timeout=0.2) or not sent.acquire(timeout=0.2)  # the fifth may just have fitted
    left = 8 * len(frame([big]))
    while left:
        left -= len(running.daemon.recv(min(left, 1 << 20)))
    sender.join(DEADLINE_S)
    assert not sender.is_alive()


def test_run_ends_with_the_stream(running: Running):
    running.daemon.close()
    running.join()
    assert running.error is None


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x04oops", b"\xff\xff\xff\xff"], ids=["nonsense", "huge"])
def test_an_invalid_frame_ends_run_with_an_error(running: Running, data: bytes):
    running.daemon.sendall(data)
    running.join()
    assert running.error is not None
