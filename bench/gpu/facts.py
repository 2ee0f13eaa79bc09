"""What the device and the software on it are."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator

import torch

from bench.gpu.case import Case, LeftOutError
from bench.gpu.lab import Lab
from neuron.device.varlen import find_varlen_kernel


def cases(_: str, lab: Lab) -> Iterator[Case]:
    facts: dict[str, Callable[[], float | str]] = {
        "name": lambda: _name(lab),
        "torch": lambda: f"{torch.__version__}, CUDA {torch.version.cuda}",
        "python": platform.python_version,
        "transformers": _transformers,
        "driver": _driver,
        "paged kernel": _paged_kernel,
    }
    for name, tell in facts.items():
        yield Case(name, "", "", tell)
    if lab.is_cuda:
        yield Case("free memory", "GiB", "", lambda: torch.cuda.mem_get_info(lab.device)[0] / 2**30)
        yield Case("memory", "GiB", "", lambda: torch.cuda.mem_get_info(lab.device)[1] / 2**30)


def _name(lab: Lab) -> str:
    if not lab.is_cuda:
        return f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    properties = torch.cuda.get_device_properties(lab.device)
    return f"{properties.name}, compute capability {properties.major}.{properties.minor}"


def _transformers() -> str:
    import transformers  # noqa: PLC0415 - seconds, which the first facts need not wait for

    return str(transformers.__version__)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LeftOutError(f"nvidia-smi does not say: {error}") from error
    return shown.splitlines()[0]


def _paged_kernel() -> str:
    return "in torch" if find_varlen_kernel() else "not in this torch: pages are gathered"
