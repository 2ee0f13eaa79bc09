"""This host's CUDA devices, as NVML lists them; its CPU when there are none, and why CUDA cannot be used.

Devices are numbered as torch numbers them: in PCI order, without those that CUDA_VISIBLE_DEVICES hides.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pynvml

from cortex_site.base.version import VERSION
from neuron.wire import MIB, DeviceInfo, Discovery

DRIVER_TRACES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


@dataclass(frozen=True, slots=True)
class DiscoveredHost:
    """The devices, the versions of CUDA and its driver, and NVML's handles of CUDA devices."""

    devices: list[DeviceInfo]
    cuda_version: str | None = None
    driver_version: str | None = None
    cuda_unavailable_reason: str | None = None
    handles: dict[int, Any] = field(default_factory=dict, repr=False)

    def gauges(self, index: int) -> tuple[int | None, int | None]:
        """A device's utilisation in percent and temperature in °C; None when it does not tell."""
        handle = self.handles.get(index)
        if handle is None:
            return None, None
        try:
            utilization = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            return utilization, pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        except pynvml.NVMLError:
            return None, None

    def free_mb(self) -> dict[int, int]:
        """The free memory of each device now, MiB by index; a device that does not tell is left out."""
        if not self.handles:
            share = psutil.virtual_memory().available // MIB // len(self.devices)
            return {device.index: share for device in self.devices}
        found = {}
        for index, handle in self.handles.items():
            with suppress(pynvml.NVMLError):
                found[index] = pynvml.nvmlDeviceGetMemoryInfo(handle).free // MIB
        return found

    def held_mb(self, pids: Collection[int], devices: Collection[int]) -> dict[int, int]:
        """What the processes hold of each device, MiB by index; of CPUs each an equal part of what they hold.

        Pages of mapped files are not counted: they are the page cache's.
        """
        if not self.handles:
            return dict.fromkeys(devices, sum(map(private_bytes, pids)) // MIB // len(devices))
        held: dict[int, int] = {}
        for index, handle in self.handles.items():
            with suppress(pynvml.NVMLError):
                running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
                held[index] = sum(one.usedGpuMemory or 0 for one in running if one.pid in pids) // MIB
        return {index: mb for index, mb in held.items() if mb}


def private_bytes(pid: int) -> int:
    """Return the resident memory of a process, without pages of mapped files; 0 when it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def discover(
    nvml: Any = pynvml, traces: tuple[Path, ...] = DRIVER_TRACES, *, cpu_devices: int = 1
) -> DiscoveredHost:
    """The host as it is now; it does not change while the daemon lives.

    Without a GPU its CPU counts as so many devices, which share its memory.
    """
    host = _discover(nvml, traces)
    if host.devices[0].kind != "cpu":
        return host
    (cpu,) = host.devices
    share = {"memory_total_mb": cpu.memory_total_mb // cpu_devices}
    return replace(
        host, devices=[cpu.model_copy(update={"index": index, **share}) for index in range(cpu_devices)]
    )


def _discover(nvml: Any, traces: tuple[Path, ...]) -> DiscoveredHost:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return DiscoveredHost([_cpu()], cuda_unavailable_reason=_reason(nvml, error, traces))
    try:
        return _cuda_host(nvml)
    except nvml.NVMLError as error:
        return DiscoveredHost([_cpu()], cuda_unavailable_reason=f"NVML does not list the devices: {error}.")


def _reason(nvml: Any, error: Exception, traces: tuple[Path, ...]) -> str | None:
    """Why CUDA is present but unusable; None on a host without any NVIDIA driver."""
    has_driver = any(trace.exists() for trace in traces)
    if isinstance(error, nvml.NVMLError_LibRmVersionMismatch):
        return "The NVIDIA kernel module and the driver library have different versions; reboot the host."
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return "The NVIDIA driver is loaded but its library libnvidia-ml is missing." if has_driver else None
    if isinstance(error, nvml.NVMLError_DriverNotLoaded) and not has_driver:
        return "The NVIDIA library is installed but its kernel driver is not loaded."
    return f"The NVIDIA driver does not answer: {error}."


def _cuda_host(nvml: Any) -> DiscoveredHost:
    every = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in every]
    visible = _visible(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    handles = dict(enumerate(every[position] for position in visible))
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
    reason = None
    if not handles:
        reason = "CUDA_VISIBLE_DEVICES hides every device." if every else "The driver sees no device."
    return DiscoveredHost(
        devices=[_cuda_device(nvml, index, handle) for index, handle in handles.items()] or [_cpu()],
        cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}",
        driver_version=driver,
        cuda_unavailable_reason=reason,
        handles=handles,
    )


def _visible(setting: str | None, uuids: list[str]) -> list[int]:
    """The positions that CUDA_VISIBLE_DEVICES lists, up to the first unknown one, as CUDA reads it."""
    if setting is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in setting.split(","):
        name = entry.strip()
        matches = [
            position for position, uuid in enumerate(uuids)
            if name == str(position) or (name.startswith("GPU-") and uuid.startswith(name))
        ]  # fmt: skip
        if not matches:
            break
        found.append(matches[0])
    return found


def _cuda_device(nvml: Any, index: int, handle: Any) -> DeviceInfo:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return DeviceInfo(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        kind="cuda",
        memory_total_mb=nvml.nvmlDeviceGetMemoryInfo(handle).total // MIB,
        compute_capability=f"{major}.{minor}",
    )


def _cpu() -> DeviceInfo:
    return DeviceInfo(
        index=0, name=_cpu_name(), kind="cpu", memory_total_mb=psutil.virtual_memory().total // MIB
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def describe(host: DiscoveredHost, harnesses: list[str]) -> Discovery:
    """The answer of `GET /discovery`."""
    return Discovery(
        version=VERSION,
        hostname=socket.gethostname(),
        os=platform.system(),
        kernel=platform.release(),
        cuda_version=host.cuda_version,
        driver_version=host.driver_version,
        cuda_unavailable_reason=host.cuda_unavailable_reason,
        devices=host.devices,
        harnesses=harnesses,
    )
