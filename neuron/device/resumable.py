"""Long computations that stop between any two of torch's operations and go on later.

A vision tower, or an encoder with a long text, computes for as long as hundreds of decode steps. On one
device only one of the two can run, so the long one runs in turns. It is code of transformers, which cannot be
left in its middle; hence it has a thread of its own, and the device passes between the two threads like a
baton: one of them waits whenever the other runs. The operations and their results are those of one call.

Operations that are long themselves are done a few rows at a time (`pieces`).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from neuron.device.pieces import in_pieces, is_large

T = TypeVar("T")


class _EndedError(BaseException):
    """Unwinds a computation that nobody waits for. No `except Exception` in its way stops it."""


class _Baton(Generic[T]):
    """What the two threads share: all that the new one knows, so that a dropped `Resumable` is collected."""

    def __init__(self, work: Callable[[], T], device: torch.device) -> None:
        self.work: Callable[[], T] | None = work
        self.device = device
        self.result: T | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.deadline = math.inf
        self._is_ended = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def lend(self) -> None:
        """Let the computation run until it gives the device back."""
        self._go.release()
        self._back.acquire()

    def end(self) -> None:
        """Let the computation unwind where it stands."""
        self._is_ended = True
        if not self.is_done:
            self.lend()

    def pause(self, *, is_large: bool = True) -> None:
        """Give the device back if the time is up, and wait for it."""
        if self.device.type == "cuda":  # operations are queued; what counts is when they have run
            if not is_large:
                return
            torch.cuda.synchronize(self.device)
        if time.perf_counter() >= self.deadline:
            self._back.release()
            self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._is_ended:
            raise _EndedError

    @torch.inference_mode()
    def compute(self) -> None:
        """Do the work, on the thread that is there for it."""
        try:
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            assert self.work
            with _Pausing(self):
                self.result = self.work()
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self.error = error
        finally:
            self.work = None
            self.is_done = True
            self._back.release()


class _Pausing(TorchFunctionMode):
    """Lets a computation pause before each operation, and between the pieces of large ones."""

    def __init__(self, baton: _Baton[Any]) -> None:
        super().__init__()
        self._baton = baton

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._baton.pause(is_large=is_large(function))
        return in_pieces(function, args, kwargs or {}, self._baton.pause)


class Resumable(Generic[T]):
    """A computation on a device, which runs only within `run`. For the device's thread.

    Dropping it ends the computation.
    """

    def __init__(self, work: Callable[[], T], device: torch.device) -> None:
        self._baton = _Baton(work, device)
        self._thread = threading.Thread(target=self._baton.compute, name="resumable", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._baton.end).atexit = False

    def run(self, seconds: float) -> bool:
        """Go on for about so many seconds, by a piece at least, and return whether all is done.

        Raises what the computation raised.
        """
        self._baton.deadline = time.perf_counter() + seconds
        if not self._baton.is_done:
            self._baton.lend()
        if self._baton.error:
            raise self._baton.error
        return self._baton.is_done

    @property
    def result(self) -> T:
        """What the computation returned, once it is done."""
        assert self._baton.is_done
        return self._baton.result  # type: ignore[return-value]
