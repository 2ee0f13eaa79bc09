"""This machine: its ports, the state directory and its disk, the drivers of its GPUs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil

from cortex_site.base.addresses import split_listen
from cortex_site.base.settings_file import ConfigError
from cortex_site.cli.doctor.finding import Finding
from cortex_site.cli.operator_api import read_state
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.processes.programs import bind

LEAST_FREE = 1 << 30
NVIDIA = "0x10de"  # of the PCI register of vendors
PCI = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia/version")


def ports(config: CortexConfig) -> Iterator[Finding]:
    """Whether each address can be listened on, or cortex does already."""
    gateway = config.gateway
    ours = family(config.home)
    named = {
        "gateway.listen": gateway.listen,
        "gateway.metrics_listen": gateway.metrics_listen,
        "gateway.admin_listen": gateway.admin_listen,
        "gateway.ollama_listen": gateway.ollama_listen,
    }
    for key, listen in named.items():
        if listen:
            yield _port(key, listen, ours)


def _port(key: str, listen: str, ours: set[int]) -> Finding:
    try:
        bind(listen).close()
    except ConfigError as error:
        holder = _holder(split_listen(listen)[1])
        if holder is not None and holder.pid in ours:
            return Finding(key, f"cortex listens on {listen}")
        who = f" ({holder.name()}, process {holder.pid}, has it)" if holder else ""
        what, _, cure = error.lines[0].partition("; ")
        return Finding(key, f"{what}{who}", cure)
    return Finding(key, f"{listen} is free")


def family(home: Path) -> set[int]:
    """The processes of the cortex that runs in this state directory."""
    try:
        supervisor = psutil.Process(int(read_state(home)["supervisor"]))
        return {supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))}
    except (KeyError, ValueError, psutil.Error):
        return set()


def _holder(port: int) -> psutil.Process | None:
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return psutil.Process(one.pid)
    except psutil.Error:
        pass
    return None


def home(config: CortexConfig) -> Iterator[Finding]:
    """The state directory: who may read it, and what its disk has left."""
    path = config.home
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("state", f"{there} cannot be written", "chown it to who runs cortex, or set state_dir")
        return
    if there == path and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("state", f"others may read {path}", f"chmod 700 {path}", fatal=False)
    usage = shutil.disk_usage(there)
    fact = f"{usage.free / (1 << 30):.1f} GiB are free where {path} is"
    cure = "make room, or lower [retention]" if usage.free < LEAST_FREE else ""
    yield Finding("disk", fact, cure)


def gpus(pci: Path = PCI, driver: Path = DRIVER) -> Iterator[Finding]:
    """Whether the kernel has a driver for the NVIDIA GPUs in this machine; a gateway needs none."""
    count = sum(map(_is_gpu, pci.iterdir())) if pci.is_dir() else 0
    if driver.exists():
        yield Finding("gpu", f"{count or 'some'} NVIDIA GPU(s), driver {_version(driver.read_text())}")
    elif count:
        cure = "install the NVIDIA driver (Debian: nvidia-driver) and restart, if neuron is to run here"
        yield Finding("gpu", f"{count} NVIDIA GPU(s) without a driver", cure, fatal=False)
    else:
        yield Finding("gpu", "no NVIDIA GPU in this machine: a neuron here would compute on the CPU")


def _is_gpu(device: Path) -> bool:
    try:
        kind = (device / "class").read_text()  # 0x0300xx and 0x0302xx: display and 3D controllers
        return (device / "vendor").read_text().strip() == NVIDIA and kind.startswith("0x03")
    except OSError:
        return False


def _version(text: str) -> str:
    return next((word for word in text.split() if word[0].isdigit() and "." in word), "of unknown version")
