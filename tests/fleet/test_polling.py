from __future__ import annotations

import json
import threading

import pytest
from django.db import connections
from django.utils import timezone

from cortex_site import config
from fleet.models import Device, Node, Operation, Placement
from fleet.services import polling, reports
from neuron.wire import ModelInfo


@pytest.fixture
def impatient(monkeypatch):
    """A poll that gives a node a quarter of a second."""

    def poll():
        with monkeypatch.context() as patch:
            settings = config.CortexConfig(poll={"timeout_s": 0.25})
            patch.setattr(polling, "current", lambda: settings)
            polling.poll()

    return poll


def test_the_report_of_a_node_is_recorded(fleet):
    fake = fleet.node("a", devices=[8000, 16_000], token="t")
    fake.has("m", devices=[1])
    fake.busy["m"] = 2
    polling.poll()
    node = Node.objects.get()
    assert (node.healthy, node.status, node.reason, node.misses) == (True, "ok", "", 0)
    assert (node.version, node.hostname, node.os, node.pid) == ("1.2.3", "a", "Linux 6.1", 1000)
    assert node.harnesses == ["torch"]
    first, second = Device.objects.all()
    assert (first.memory_total_mb, first.memory_free_mb, first.worker) == (8000, 8000, "cuda-dev-0")
    assert (second.memory_used_mb, second.state, second.name) == (1000, "ready", "Fake GPU")
    placement = Placement.objects.get()
    assert (placement.state, placement.devices, placement.memory_mb) == ("loaded", [1], 1000)
    assert (placement.running, placement.context, placement.capabilities) == (2, 4096, ["chat"])
    assert placement.last_used_at


def test_a_model_that_is_gone_is_unloaded_and_remembered(fleet):
    fake = fleet.node("a")
    fake.has("m")
    polling.poll()
    since = Placement.objects.get().changed_at
    polling.poll()
    assert Placement.objects.get().changed_at == since
    fake.models.clear()
    polling.poll()
    row = Placement.objects.get()
    assert (row.state, row.memory_mb, row.running) == ("unloaded", 1000, 0)
    assert row.changed_at > since


def test_a_load_that_has_just_been_decided_is_not_forgotten(fleet):
    fleet.node("a")
    Placement.objects.create(node=Node.objects.get(), model="m", state="loading")
    Operation.objects.create(kind="load", model="m", node="a", state="running")
    polling.poll()
    assert Placement.objects.get().state == "loading"
    Operation.objects.all().delete()
    polling.poll()
    assert Placement.objects.get().state == "unloaded"


def test_three_misses_make_a_node_unhealthy_and_one_answer_heals_it(fleet, impatient):
    fake = fleet.node("a")
    with fake.hold():
        for misses in (1, 2, 3):
            impatient()
            node = Node.objects.get()
            assert (node.misses, node.healthy) == (misses, misses < 3)
    assert node.reason == "a does not answer within 0.25 s"
    polling.poll()
    node.refresh_from_db()
    assert (node.misses, node.healthy, node.reason) == (0, True, "")


def test_a_node_that_refuses_connections_is_a_miss(fleet):
    fleet.node("a").stop()
    polling.poll()
    assert Node.objects.get().reason.startswith("a does not answer: ")


def test_a_slow_node_does_not_delay_the_others(fleet, until):
    slow = fleet.node("slow")
    fleet.node("b").has("m")
    fleet.node("c").has("m")

    def work():
        try:
            polling.poll()
        finally:
            connections.close_all()

    with slow.hold():
        poll = threading.Thread(target=work)
        poll.start()
        until(lambda: Placement.objects.filter(model="m").count() == 2)
        assert poll.is_alive()
    poll.join()
    assert Node.objects.filter(healthy=True).count() == 3


def test_a_wrong_token_is_a_miss_with_a_reason(fleet):
    fake = fleet.node("a", token="right")
    fake.token = "other"
    polling.poll()
    node = Node.objects.get()
    assert (node.misses, node.reason) == (1, "Wrong token.")


def test_discovery_is_asked_again_when_the_daemon_is_another(fleet):
    fake = fleet.node("a", devices=[8000])
    fake.devices_mb = [8000, 8000]
    fake.restart()
    polling.poll()
    assert [device.memory_total_mb for device in Device.objects.all()] == [8000, 8000]
    fake.devices_mb = [8000]
    fake.restart()
    polling.poll()
    assert Device.objects.count() == 1


def test_a_node_of_another_protocol_is_flagged(fleet):
    fake = fleet.node("a")
    fake.protocol = 2
    fake.restart()
    polling.poll()
    assert Node.objects.get().reason == "a speaks protocol 2, this cortex speaks 1"


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        ("/models", b"<html>", "a sent an answer that is not understood: /models : Invalid JSON"),
        (
            "/models",
            [{"id": "m", "source": "m", "state": 3}],
            "a sent an answer that is not understood: /models 0.state",
        ),
        (
            "/health",
            {"status": "ok"},
            "a sent an answer that is not understood: /health uptime_s: Field required",
        ),
    ],
)
def test_an_answer_that_is_not_understood_is_a_miss_that_says_so(fleet, path, answer, reason):
    fake = fleet.node("a")
    fake.answers[path] = answer
    polling.poll()
    node = Node.objects.get()
    assert node.misses == 1
    assert node.reason.startswith(reason)
    fake.answers.clear()
    polling.poll()
    assert Node.objects.get().misses == 0


@pytest.mark.parametrize("strange", [{"id": "m" * 300}, {"error": {"code": "c", "message": "nul \0"}}])
def test_an_answer_that_the_database_refuses_is_a_miss_that_says_so(fleet, db, strange):
    fake = fleet.node("a")
    fake.answers["/models"] = [{"id": "m", "source": "m", "state": "loaded", **strange}]
    polling.poll()
    node = Node.objects.get()
    if db:
        assert node.misses == 1
        assert node.reason.startswith("a sent values that cannot be recorded: ")
    else:  # SQLite takes any text
        assert node.misses == 0
        assert Placement.objects.get().state == "loaded"


def test_numbers_out_of_range_are_clamped(fleet):
    fake = fleet.node("a", devices=[8000])
    health = fake._health().model_dump()
    health["rss_mb"] = 10**15
    health["devices"][0] |= {"memory_free_mb": 10**12, "memory_used_mb": -5}
    fake.answers["/health"] = json.loads(json.dumps(health))
    polling.poll()
    device = Device.objects.get()
    assert (device.memory_free_mb, device.memory_used_mb) == (8000, 0)
    assert Node.objects.get().misses == 0


def test_a_poll_keeps_the_claims_of_operations(fleet):
    fleet.node("a")
    operation = Operation.objects.create(kind="load", model="m", node="a", state="running")
    Device.objects.update(claimed_by=operation)
    polling.poll()
    assert Device.objects.get().claimed_by == operation


def test_what_a_load_passed_over_stands_beside_what_its_template_takes():
    row = Placement()
    told = ModelInfo(id="m", source="m", state="loaded", text={"turns": "alternate"}, warnings=["a: b", "c"])
    reports.copy_info(row, told, timezone.now())
    assert row.text == {"turns": "alternate", "warnings": "a: b; c"}
    event = told.model_copy(update={"text": {}})  # an event tells no text
    reports.copy_info(row, event, timezone.now())
    assert row.text == {"turns": "alternate", "warnings": "a: b; c"}
