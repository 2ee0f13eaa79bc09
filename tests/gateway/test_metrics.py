"""What one request leaves in the metrics, and what the metrics process makes of several workers."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest

from fleet.breaker import FAILURES
from fleet.gateway.record.metrics_server import LiveCollector, application
from neuron.wire import DeviceHealth, Health, ModelLoad, NodeState
from tests.gateway.conftest import MODEL, make_house, serving
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed

AT = {"model": MODEL, "node": "n0"}


def value(name, **labels) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


NAMES = {
    "cortex_requests_total": {"outcome": "ok", "dialect": "openai-chat"},
    "cortex_request_duration_seconds_count": {},
    "cortex_time_to_first_token_seconds_count": {},
    "cortex_tokens_per_second_count": {},
    "cortex_prompt_tokens_total": {},
    "cortex_completion_tokens_total": {},
    "cortex_cached_prompt_tokens_total": {},
    "cortex_queue_seconds_count": {},
    "cortex_gateway_overhead_seconds_count": {},
    "cortex_inter_token_seconds_count": {},
}


@pytest.mark.parametrize("asked", [False, True])
async def test_a_stream_is_counted_exactly_whether_or_not_its_client_asked_for_usage(house, asked):
    before = {name: value(name, **AT, **labels) for name, labels in NAMES.items()}
    options = {"stream_options": {"include_usage": True}} if asked else {}
    answer = await house.chat(stream=True, **options)
    assert ('"usage"' in answer.text) == asked
    record = await house.record()
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (7, 3, 4)
    assert record.finish_reason == "stop"
    assert 0 < record.overhead_s < record.latency_s
    after = {name: value(name, **AT, **labels) - before[name] for name, labels in NAMES.items()}
    assert after.pop("cortex_inter_token_seconds_count") >= 0  # chunks may come together
    assert after == {
        "cortex_requests_total": 1,
        "cortex_request_duration_seconds_count": 1,
        "cortex_time_to_first_token_seconds_count": 1,
        "cortex_tokens_per_second_count": 1,
        "cortex_prompt_tokens_total": 7,
        "cortex_completion_tokens_total": 3,
        "cortex_cached_prompt_tokens_total": 4,
        "cortex_queue_seconds_count": 1,
        "cortex_gateway_overhead_seconds_count": 1,
    }


@pytest.mark.parametrize(("path", "extra"), [("/v1/messages", {"max_tokens": 9}), ("/v1/responses", {})])
async def test_the_other_dialects_are_counted_exactly_too(house, path, extra):
    text = (
        {"input": "Hi"} if path.endswith("responses") else {"messages": [{"role": "user", "content": "Hi"}]}
    )
    await house.client.post(path, json={"model": MODEL, "stream": True} | text | extra)
    record = await house.record()
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (7, 3, 4)


async def test_open_streams_and_the_event_loop_are_watched(house):
    async def hold(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "a"})))
        await writer.drain()
        await request.gone.wait()

    house.node.answer = hold
    before = value("cortex_event_loop_delay_seconds_count")
    body = {"model": MODEL, "messages": [], "stream": True}
    async with house.client.stream("POST", "/v1/chat/completions", json=body), asyncio.timeout(10):
        while value("cortex_open_streams") != 1:
            await asyncio.sleep(0.02)
    async with asyncio.timeout(10):
        while value("cortex_open_streams") != 0:
            await asyncio.sleep(0.02)
    assert value("cortex_event_loop_delay_seconds_count") > before


async def test_a_cold_start_is_counted_with_its_wait():
    async with make_house(loaded=False) as house:

        async def load(operation):
            await asyncio.sleep(0.1)
            await house.node.set_model(MODEL)
            operation.state = "succeeded"

        house.control.on_load = load
        before = value("cortex_cold_start_seconds_sum", **AT)
        assert (await house.chat()).status_code == 200
        record = await house.record()
        assert record.cold
        assert 0.05 < record.load_s <= record.queue_s
        assert value("cortex_cold_start_seconds_sum", **AT) - before == pytest.approx(record.load_s, abs=1e-6)


async def test_a_failed_attempt_is_told_in_the_record():
    async with make_house(nodes=2) as house:

        async def close(request, writer):
            body = b'{"error": {"message": "full", "code": "queue_full"}}'
            writer.write(b"HTTP/1.1 503 X\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        house.nodes[0].answer = close
        while (await house.chat()).headers["x-cortex-retries"] == "0":
            pass
        async with asyncio.timeout(10):
            while not any(record.retries for record in house.records):
                await asyncio.sleep(0.01)
        record = next(record for record in house.records if record.retries)
        assert record.attempts == (("n0", "queue_full"),)
        assert record.node == "n1"


async def test_how_replicas_compared_is_in_the_record():
    async with make_house(nodes=2) as house:
        await house.chat()
        async with asyncio.timeout(10):
            while not house.records:
                await asyncio.sleep(0.01)
        waits = dict(house.records[0].waits_s)
        assert set(waits) == {"n0", "n1"}
        assert waits[house.records[0].node] == min(waits.values())


def test_a_node_shows_its_load_and_devices():
    from fleet.gateway.record.metrics import show_state

    load = ModelLoad(
        id="shown", running=2, waiting=3, max_running=8, tok_s_decode=55.5, rejected=4, timed_out=1
    )
    device = DeviceHealth(
        index=1, state="ready", worker="cuda-dev-1", memory_used_mb=10, memory_free_mb=6, temperature_c=61
    )
    health = Health(status="ok", uptime_s=1, pid=1, rss_mb=1, devices=[device], models=[load])
    show_state("gpu", NodeState(seq=1, health=health, models=[]))
    at = {"model": "shown", "node": "gpu"}
    assert value("cortex_model_in_flight", **at) == 2
    assert value("cortex_model_queue_depth", **at) == 3
    assert value("cortex_model_max_in_flight", **at) == 8
    assert value("cortex_model_rejected_requests", **at, reason="queue_full") == 3
    assert value("cortex_model_rejected_requests", **at, reason="wait_timeout") == 1
    assert REGISTRY.get_sample_value("cortex_model_max_queue_depth", at) is None
    at = {"node": "gpu", "device": "1"}
    assert value("cortex_device_memory_free_bytes", **at) == 6 << 20
    assert value("cortex_device_temperature_celsius", **at) == 61
    assert REGISTRY.get_sample_value("cortex_device_utilization_ratio", at) is None


async def test_a_model_that_went_and_a_node_that_is_away_have_nothing_running(house):
    await house.node.set_model(MODEL, running=2, waiting=1)
    await house.node.set_model("other", running=4)
    async with asyncio.timeout(10):
        while value("cortex_model_in_flight", model="other", node="n0") != 4:
            await asyncio.sleep(0.01)
    await house.node.drop_model("other")
    async with asyncio.timeout(10):
        while value("cortex_model_in_flight", model="other", node="n0"):
            await asyncio.sleep(0.01)
    assert value("cortex_model_in_flight", **AT) == 2
    await house.node.stop()
    async with asyncio.timeout(10):
        while value("cortex_model_in_flight", **AT) or value("cortex_model_queue_depth", **AT):
            await asyncio.sleep(0.01)
    assert value("cortex_node_up", node="n0") == 0


async def test_a_node_that_was_removed_is_neither_up_nor_down(house):
    house.control.change(nodes={})
    async with asyncio.timeout(10):
        while not math.isnan(value("cortex_node_up", node="n0")):
            await asyncio.sleep(0.01)
    assert value("cortex_node_breaker_state", node="n0") == 0


WORKER = """
import sys
from fleet.gateway.record import metrics
metrics.COLD_STARTS.labels("m", "n").inc()
metrics.OPEN_STREAMS.set(3)
metrics.GAP.labels("m", "n").add([0, 2] + [0] * 11, 0.003)
print("done", flush=True)
sys.stdin.readline()
"""


def test_dead_workers_counts_stay_and_their_streams_go(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == b"done\n"
    registry = CollectorRegistry(support_collectors_without_names=True)
    LiveCollector(registry)
    scraped = generate_latest(registry).decode()
    assert "cortex_open_streams 6.0" in scraped
    assert 'cortex_inter_token_seconds_bucket{le="0.0025",model="m",node="n"} 4.0' in scraped
    workers[0].communicate(b"\n")
    scraped = generate_latest(registry).decode()
    assert "cortex_open_streams 3.0" in scraped
    assert 'cortex_cold_starts_total{model="m",node="n"} 2.0' in scraped
    workers[1].communicate(b"\n")


async def test_breakers_are_shown(house):
    for _ in range(FAILURES):
        house.gateway.nodes.mark_failed("n0")
    async with asyncio.timeout(10):
        while value("cortex_node_breaker_state", node="n0") != 2:
            await asyncio.sleep(0.02)


async def test_a_whole_answer_leaves_its_finish_reason(house):
    await house.chat()
    assert (await house.record()).finish_reason == "stop"


@pytest.mark.parametrize("token", [None, "scrape-me"])
async def test_the_metrics_port_is_open_or_asks_for_its_token(token):
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    async with (
        serving(application(registry, token)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        bare = await client.get("/metrics")
        wrong = await client.get("/metrics", headers={"authorization": "Bearer scrape-m"})
        right = await client.get("/metrics", headers={"authorization": "Bearer scrape-me"})
    assert [bare.status_code, wrong.status_code] == ([200, 200] if token is None else [401, 401])
    assert right.status_code == 200
    assert "things_total" in right.text
    assert token is None or token not in bare.text


async def test_the_openapi_page_can_be_for_key_holders_alone():
    async with make_house() as house:
        assert (await house.client.get("/openapi.json")).status_code == 200
    async with make_house(open_openapi=False) as house:
        foreign = {"x-forwarded-for": "192.0.2.1"}
        assert (await house.client.get("/openapi.json", headers=foreign)).status_code == 401
        assert (await house.client.get("/openapi.json")).status_code == 200
