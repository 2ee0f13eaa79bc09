"""Models that come and go: asleep in host memory, on disk, and taking turns on one device.

    wake_over_copy          from asleep to the first token, over copying the weights once plus one prefill
    cold_over_read          from the disk to the first token, over reading the file once; 2 GB
    swap_ms_ab              p50 from a request to its first token, the requests for A, B, A, B on a device
                            that holds one of them; over llama.cpp's load and first token, its file in the
                            page cache
    kv_return_over_recompute  a session of 4000 tokens back from host memory, over prefilling it
    tp2_over_1              decode of one request on two CPU devices of one thread, over one of two threads;
                            float32, 370 million parameters
    tp_overhead_us          what a step's plan takes to reach both ranks
    runs                    everything, by group

All of it runs as a neuron does, with a worker process of one device. Options and the other keys of the result
are those of `bench.command`; keys of groups that were not asked for are null.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench import command, inference
from bench.engine.llama import LLAMA
from bench.swap import kv, ranks, warm

GROUPS = {"warm": warm, "kv": kv, "ranks": ranks}


def measure(run: command.Run) -> dict[str, Any]:
    inference.set_up(run.options.threads)
    figures: dict[str, Any] = {key: None for group in GROUPS.values() for key in group.FIGURES}
    runs: dict[str, Any] = {}
    for name in run.options.only:
        with tempfile.TemporaryDirectory() as folder:
            measured = asyncio.run(GROUPS[name].measure(run, Path(folder)))
        runs[name] = measured.pop("runs")
        figures |= measured
    return figures | {"runs": runs}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu", 0), help="cpu or cuda:N")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS)
    )


if __name__ == "__main__":
    command.run("swap", __doc__, measure, peers=[LLAMA], add_options=add_options)
