"""Loads on a node whose device workers are still starting, or have failed."""

from __future__ import annotations

import pytest
from django.test import override_settings

from fleet.services import lifecycle


def ask():
    return lifecycle.load("m", requested_by="test").id


@pytest.mark.parametrize("state", ["starting", "restarting"])
def test_devices_that_start_are_waited_for_as_room_is(fleet, state):
    node = fleet.node("a")
    node.device_states[0] = state
    fleet.model(vram_mb=1000)
    operation = ask()
    with override_settings(NODE_WAIT_S=0):
        assert fleet.run(operation).message == "a: waits for devices that are starting"
        node.device_states.clear()
        assert fleet.run(operation).message == "loaded on a"
    assert ("/models/read-ahead", "m") in node.asked


def test_devices_that_never_start_are_waited_for_a_bounded_time(fleet):
    fleet.node("a").device_states[0] = "starting"
    fleet.model()
    with override_settings(CAPACITY_WAIT_S=0):
        row = fleet.run(ask())
    assert (row.state, row.error_code) == ("failed", "devices_not_ready")


def test_devices_that_failed_are_waited_for_no_longer_than_a_node_that_is_away(fleet):
    node = fleet.node("a")
    node.device_states[0] = "starting"
    fleet.model()
    operation = ask()
    with override_settings(NODE_WAIT_S=0):
        assert fleet.run(operation).state == "pending"
        node.device_states[0] = "failed"
        row = fleet.run(operation)
    assert (row.state, row.message) == ("failed", "a: its devices are not ready")
