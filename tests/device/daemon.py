"""The daemon's end of the pipe, blocking: starts the real worker process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from neuron.pipe import (
    HEADER_BYTES,
    Cancel,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Ready,
    Refused,
    Sampling,
    Submit,
    ToDaemon,
    Tokens,
    ToWorker,
    decode_to_daemon,
    frame,
)

DEADLINE_S = 60.0  # for one message; only a hang takes this long

Message = TypeVar("Message", bound=ToDaemon)


WORKER = ("-m", "neuron.worker")


class Daemon:
    def __init__(self, *flags: str, program: Sequence[str] = WORKER) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, *program, "--device", "cpu:0", "--threads", "1", *flags]
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        ours.settimeout(DEADLINE_S)
        self.socket = ours
        self.seen: list[ToDaemon] = []
        self._unread: list[ToDaemon] = []

    def __enter__(self) -> Self:
        self.ready = self.wait_for(Ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def send(self, *messages: ToWorker) -> None:
        self.socket.sendall(frame(messages))

    def receive(self) -> ToDaemon:
        if not self._unread:
            size = int.from_bytes(self._read(HEADER_BYTES), "big")
            self._unread = decode_to_daemon(self._read(size))
        message = self._unread.pop(0)
        self.seen.append(message)
        return message

    def wait_for(self, kind: type[Message], accept: Callable[[Message], bool] = lambda _: True) -> Message:
        while True:
            message = self.receive()
            if isinstance(message, kind) and accept(message):
                return message

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError("the worker closed the pipe")
            data += part
        return bytes(data)

    # --- requests -------------------------------------------------------------------------------------------

    def load(self, path: Path, model: str = "m") -> Loaded | LoadFailed:
        self.send(Load(model, str(path)))
        while True:
            message = self.receive()
            if isinstance(message, (Loaded, LoadFailed)):
                return message

    def submit(self, number: int, tokens: list[int], max_tokens: int = 8, model: str = "m") -> None:
        self.send(Submit(number, model, tokens, max_tokens, Sampling(), []))

    def cancel(self, number: int) -> Finished:
        self.send(Cancel(number))
        return self.wait_for(Finished, lambda finished: finished.id == number)

    def end(self, number: int) -> Finished | Refused:
        """The end of a request, which may have been received already."""
        while True:
            ends = [m for m in self.seen if isinstance(m, (Finished, Refused)) and m.id == number]
            if ends:
                return ends[0]
            self.receive()

    def text(self, number: int) -> list[int]:
        self.end(number)
        return [token for m in self.seen if isinstance(m, Tokens) and m.id == number for token in m.tokens]
