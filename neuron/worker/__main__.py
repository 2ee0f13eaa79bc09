"""`python -m neuron.worker --device cpu:0 --fd N`: started by the daemon with one end of a socket pair."""

from __future__ import annotations

import gc

gc.disable()  # until all is imported, of which nothing is garbage: looking for it takes a fifth of that time

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from neuron.device.memory import exempt_from_collection
from neuron.device.page_pool import KV_DTYPES
from neuron.device.startup import Device, init_device, parse_device
from neuron.engine.drafter import SPECULATIONS
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.packed.folder import MAX_PACKED_MB, PackedFolder
from neuron.pipe import EXIT_CRASHED, EXIT_POISONED
from neuron.prctl import die_with_parent, name_thread
from neuron.step import PoisonedError
from neuron.worker.channel import Channel
from neuron.worker.loop import DeviceLoop
from neuron.worker.model_pool import ModelPool, WorkerSettings

log = logging.getLogger("neuron.worker")

SWITCH_INTERVAL_S = 0.0005  # the longest time that the pipe, a grammar or a picture holds up the device


def main(argv: Sequence[str] | None = None) -> None:
    """Run a worker until the pipe closes, and end the process without waiting for torch's threads."""
    gc.enable()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which closes the pipe
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _set_up_logging()
    arguments, settings = _parse(argv)
    with socket.socket(fileno=arguments.fd) as sock:
        worker = Worker(arguments.device, arguments.threads, settings, Channel(sock))
        os._exit(worker.run())


def _set_up_logging() -> None:
    """Log like the project's other processes; plain lines on a machine that has the engine alone."""
    try:
        from cortex_site.base.logs import setup  # noqa: PLC0415 - not on every machine
    except ModuleNotFoundError as error:
        if error.name != "cortex_site":
            raise
        logging.basicConfig(level=logging.INFO)
        return
    setup("info", "neuron-worker")


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, WorkerSettings]:
    limits = SchedulerLimits()
    parser = argparse.ArgumentParser(prog="python -m neuron.worker", description=__doc__)
    parser.add_argument("--device", type=parse_device, required=True, help="cpu:0 or cuda:N")
    parser.add_argument("--fd", type=int, required=True, help="a connected unix stream socket")
    parser.add_argument("--threads", type=int, help="CPU threads; default: the cores, shared among devices")
    parser.add_argument("--cpu-devices", type=int, default=1, help="workers that share cores and memory")
    parser.add_argument("--memory-mb", type=int, help="for torch, weights and caches; default: most there is")
    parser.add_argument("--kv-mb", type=int, help="KV cache of each model; default: by what is free")
    parser.add_argument("--kv-host-mb", type=int, default=0, help="host memory for pages, of each model")
    parser.add_argument("--host-cache-mb", type=int, help="host memory of models that are asleep")
    parser.add_argument("--packed-dir", type=Path, help="a folder for weights that loads compute")
    parser.add_argument("--packed-mb", type=int, default=MAX_PACKED_MB, help="the room that it may take")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: the model's own"
    )
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="auto", help="of the KV cache's pages")
    parser.add_argument(
        "--allow-unexpected-tensors",
        action="store_true",
        help="load models with tensors that their configuration has no place for",
    )
    pixels = WorkerSettings().max_image_pixels
    parser.add_argument("--max-image-pixels", type=int, default=pixels, help="of the file of one image")
    parser.add_argument("--max-running", type=int, default=limits.max_running, help="requests per model")
    parser.add_argument("--max-waiting", type=int, default=limits.max_waiting, help="requests per model")
    parser.add_argument("--max-wait-s", type=float, default=limits.max_wait_s, help="longest wait for a turn")
    parser.add_argument("--step-tokens", type=int, default=limits.step_tokens, help="tokens in one step")
    own = WorkerSettings()
    parser.add_argument(
        "--speculation", choices=SPECULATIONS, default=own.speculation, help="what drafts answers"
    )
    parser.add_argument("--draft-tokens", type=int, default=own.draft_tokens, help="of one answer in a step")
    parsed = parser.parse_args(argv)
    try:
        limits = SchedulerLimits(
            max_running=parsed.max_running,
            max_waiting=parsed.max_waiting,
            max_wait_s=parsed.max_wait_s,
            step_tokens=parsed.step_tokens,
        )
    except ValueError as error:
        parser.error(str(error))
    settings = WorkerSettings(
        cpu_devices=parsed.cpu_devices,
        memory_mb=parsed.memory_mb,
        kv_mb=parsed.kv_mb,
        host_cache_mb=parsed.host_cache_mb,
        kv_host_mb=parsed.kv_host_mb,
        packed=parsed.packed_dir and PackedFolder(parsed.packed_dir, parsed.packed_mb << 20),
        dtype=parsed.dtype,
        kv_dtype=parsed.kv_dtype,
        allow_unexpected_tensors=parsed.allow_unexpected_tensors,
        max_image_pixels=parsed.max_image_pixels,
        speculation=parsed.speculation,
        draft_tokens=parsed.draft_tokens,
        limits=limits,
    )
    return parsed, settings


class Worker:
    """The two threads of a worker, and its exit code."""

    def __init__(
        self, device: Device, threads: int | None, settings: WorkerSettings, channel: Channel
    ) -> None:
        self._device = device
        self._threads = threads
        self._settings = settings
        self._channel = channel
        self._exit_code = 0

    def run(self) -> int:
        """Return the exit code: 0 when the daemon closed the pipe or sent `Shutdown`."""
        name = f"{self._device.type}-dev-{self._device.index}"
        threading.Thread(target=self._own_device, name=name, daemon=True).start()
        try:
            self._channel.run()
        except Exception:
            log.exception("the pipe failed")
            return EXIT_CRASHED
        return self._exit_code

    def _own_device(self) -> None:
        name_thread(threading.current_thread().name)
        try:
            init_device(self._device, self._threads, self._settings.cpu_devices)
            exempt_from_collection()
            DeviceLoop(ModelPool(self._device, self._settings), self._channel).run()
        except PoisonedError:
            log.exception("the device is poisoned")
            self._exit_code = EXIT_POISONED
        except BaseException:
            log.exception("the device's thread crashed")
            self._exit_code = EXIT_CRASHED
        finally:
            self._channel.close()


if __name__ == "__main__":
    main()
