"""When a device gets a new worker by itself."""

from __future__ import annotations

from datetime import time, timedelta

import pytest
from django.utils import timezone

from cortex_site.config import current
from fleet.models import Device, Operation, Placement
from fleet.services import defrag, polling


@pytest.fixture
def settings_with(monkeypatch):
    def change(section, **values):
        changed = getattr(current(), section).model_copy(update=values)
        config = current().model_copy(update={section: changed})
        monkeypatch.setattr(defrag, "current", lambda: config)

    return change


@pytest.fixture
def worn(fleet):
    """A device after many loads, with a model that was used an hour ago."""
    node = fleet.node("a")
    node.has("m")
    node.cycles = 50
    polling.poll()
    Placement.objects.update(last_used_at=timezone.now() - timedelta(hours=1))
    return node


def test_a_worn_idle_device_is_defragmented_once(fleet, worn):
    assert defrag.defragment() == 1
    assert defrag.defragment() == 0
    row = fleet.run(Operation.objects.get().pk)
    assert (row.kind, row.state, row.requested_by) == ("defrag", "succeeded", "defrag")
    assert row.reason == "50 loads and unloads since its worker started"
    assert fleet.states() == {"m@a": "loaded"}
    assert defrag.defragment() == 0


def test_fragmented_memory_is_a_reason_too(fleet, worn, settings_with):
    Device.objects.update(cycles=1, fragmented_mb=900)
    device = Device.objects.get()
    assert defrag.why(device, defrag.current()) == "900 MiB are free in pieces that are of no use"
    settings_with("lifecycle", defrag_fragmented_fraction=0.2)
    assert defrag.why(device, defrag.current()) == ""


def test_a_device_in_use_waits_for_the_maintenance_window(fleet, worn, settings_with):
    Placement.objects.update(last_used_at=timezone.now())
    assert defrag.defragment() == 0
    settings_with("lifecycle", maintenance_utc="00:00-00:00")
    assert defrag.defragment() == 1


def test_defragmentation_can_be_turned_off(fleet, worn, settings_with):
    settings_with("eviction", defrag_after_cycles=0)
    Device.objects.update(fragmented_mb=8000)
    assert defrag.defragment() == 0


@pytest.mark.parametrize(
    ("window", "now", "inside"),
    [
        ("", time(3), False),
        ("02:00-05:00", time(3), True),
        ("02:00-05:00", time(5), False),
        ("23:00-01:00", time(23, 30), True),
        ("23:00-01:00", time(0, 30), True),
        ("23:00-01:00", time(12), False),
        ("00:00-00:00", time(0), True),
        ("00:00-00:00", time(23, 59), True),
        ("06:00-06:00", time(5), True),
    ],
)
def test_a_maintenance_window_contains_a_time(window, now, inside):
    assert defrag.within(window, now) is inside
