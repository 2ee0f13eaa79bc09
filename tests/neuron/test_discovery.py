from __future__ import annotations

import pytest

from neuron.discovery import describe, discover


class FakeNvml:
    """The part of pynvml that discovery uses; `devices` are (uuid, name, MiB, capability)."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801, N818
        pass

    class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801, N818
        pass

    class NVMLError_LibRmVersionMismatch(NVMLError):  # noqa: N801, N818
        pass

    def __init__(self, devices=(), error=None):
        self._devices = devices
        self._error = error

    def nvmlInit(self):  # noqa: N802
        if self._error:
            raise self._error("it is broken")

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._devices[index]

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle[0]

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return handle[1].encode()  # older versions give bytes

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        class Memory:
            total = handle[2] << 20

        return Memory

    def nvmlDeviceGetCudaComputeCapability(self, handle):  # noqa: N802
        return handle[3]

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.1"

    def nvmlSystemGetCudaDriverVersion_v2(self):  # noqa: N802
        return 13010


CARDS = [("GPU-aa", "Card A", 24000, (8, 9)), ("GPU-bb", "Card B", 80000, (9, 0))]


@pytest.fixture(autouse=True)
def _no_restriction(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cuda_devices_are_listed_with_their_versions():
    host = discover(FakeNvml(CARDS))
    assert [(d.index, d.name, d.kind, d.memory_total_mb, d.compute_capability) for d in host.devices] == [
        (0, "Card A", "cuda", 24000, "8.9"),
        (1, "Card B", "cuda", 80000, "9.0"),
    ]
    assert (host.cuda_version, host.driver_version) == ("13.1", "580.1")
    assert host.cuda_unavailable_reason is None


@pytest.mark.parametrize(
    ("setting", "names"),
    [("1", ["Card B"]), ("1,0", ["Card B", "Card A"]), ("GPU-b", ["Card B"]), ("0,9,1", ["Card A"])],
)
def test_devices_are_numbered_as_cuda_numbers_them(monkeypatch, setting, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    host = discover(FakeNvml(CARDS))
    assert [device.name for device in host.devices] == names
    assert [device.index for device in host.devices] == list(range(len(names)))


def test_hidden_devices_leave_the_cpu_and_a_reason(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    host = discover(FakeNvml(CARDS))
    assert [device.kind for device in host.devices] == ["cpu"]
    assert "CUDA_VISIBLE_DEVICES" in host.cuda_unavailable_reason


@pytest.mark.parametrize(
    ("error", "has_driver", "expected"),
    [
        (FakeNvml.NVMLError_LibraryNotFound, False, None),
        (FakeNvml.NVMLError_LibraryNotFound, True, "libnvidia-ml is missing"),
        (FakeNvml.NVMLError_LibRmVersionMismatch, True, "reboot"),
        (FakeNvml.NVMLError_DriverNotLoaded, False, "kernel driver is not loaded"),
        (FakeNvml.NVMLError, True, "it is broken"),
    ],
)
def test_unusable_cuda_has_a_reason(tmp_path, error, has_driver, expected):
    trace = tmp_path / "version"
    if has_driver:
        trace.touch()
    host = discover(FakeNvml(error=error), traces=(trace,))
    assert [(device.index, device.kind) for device in host.devices] == [(0, "cpu")]
    reason = host.cuda_unavailable_reason
    assert reason is None if expected is None else expected in reason


def test_discovery_describes_this_host():
    described = describe(discover(), ["torch"])
    assert described.devices
    assert described.harnesses == ["torch"]
    assert described.os
    assert described.kernel
