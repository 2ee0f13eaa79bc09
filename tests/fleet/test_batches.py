"""Files and batches: a real gateway on the real control plane, the official SDK, and what a worker does."""

from __future__ import annotations

import asyncio
import json
import stat
import uuid
from datetime import timedelta
from types import SimpleNamespace

import openai
import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from cortex_site.config.cortex_toml import BatchSettings, CortexConfig, GatewaySettings, RedisSettings
from fleet.batches import token_of
from fleet.control_plane import ServicesControl
from fleet.gateway.app import application
from fleet.gateway.data_plane import DataPlane
from fleet.models import ModelProfile, Node, RequestBatch, StoredFile
from fleet.services import batch_lines, batch_runs, files, keys, records
from tests.gateway.conftest import MODEL, serving
from tests.stubs.fake_node import FakeNode, answer_hello, refuse

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CHAT = "/v1/chat/completions"


def line(ident: str, text: str = "Hi", url: str = CHAT, method: str = "POST", **body) -> str:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": text}]} | body
    return json.dumps({"custom_id": ident, "method": method, "url": url, "body": asked})


class Shop:
    """A gateway, its node, an owner's SDK, and a worker that runs batches when it is told to."""

    def __init__(self, node: FakeNode, url: str, key: str) -> None:
        self.node = node
        self.url = url
        self.client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    async def upload(self, *lines: str) -> str:
        made = await self.client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
        return made.id

    async def begin(self, *lines: str, endpoint: str = CHAT, **more):
        return await self.client.batches.create(
            input_file_id=await self.upload(*lines), endpoint=endpoint, completion_window="24h", **more
        )

    async def work(self, ident: str) -> None:
        await in_thread(lambda: batch_runs.run(ident, self.url))

    async def answers(self, file_id: str) -> dict[str, dict]:
        text = (await self.client.files.content(file_id)).text
        return {made["custom_id"]: made for made in map(json.loads, text.splitlines())}


async def in_thread(verb):
    def work():
        try:
            return verb()
        finally:
            connections.close_all()

    return await asyncio.to_thread(work)


@pytest.fixture
def bounds(monkeypatch):
    """Settings of batches that a test may change."""
    bounds = SimpleNamespace(**BatchSettings(concurrency=2).model_dump())
    config = SimpleNamespace(batches=bounds, gateway=GatewaySettings())
    for module in (files, batch_runs, batch_lines):
        monkeypatch.setattr(module, "current", lambda: config)
    return bounds


@pytest.fixture
async def shop(db, bounds, redis_server, tmp_path):
    with override_settings(HOME=tmp_path):
        node = FakeNode("n0")
        await node.start()
        await node.set_model(MODEL)
        made = {}

        def rows() -> None:
            made["key"] = keys.create("laptop")[1]
            made["other"] = keys.create("phone")[1]
            ModelProfile.objects.create(model_id=MODEL, context=4096)
            Node.objects.create(name="n0", endpoint=node.url)

        await in_thread(rows)
        config = CortexConfig(
            gateway=GatewaySettings(configuration_check_s=3600), redis=RedisSettings(url=redis_server.url)
        )
        gateway = DataPlane(config, ServicesControl(), records.store)
        async with serving(application(gateway)) as port:
            async with asyncio.timeout(20):
                while not gateway.fleet.snapshot.replicas(MODEL):
                    await asyncio.sleep(0.01)
            shop = Shop(node, f"http://127.0.0.1:{port}", made["key"])
            shop.other = Shop(node, shop.url, made["other"])
            yield shop
            await shop.client.close()
            await shop.other.client.close()
        await node.stop()


async def test_a_batch_is_answered(shop):
    begun = await shop.begin(line("a", "One"), line("b", "Two"), metadata={"for": "test"})
    assert (begun.status, begun.metadata) == ("validating", {"for": "test"})
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    assert (made.status, made.request_counts.completed, made.error_file_id) == ("completed", 2, None)
    assert made.created_at <= made.in_progress_at <= made.completed_at
    answers = await shop.answers(made.output_file_id)
    assert answers["b"]["response"]["body"]["choices"][0]["message"]["content"] == "Hello there."
    assert answers["b"]["response"]["status_code"] == 200
    sent = {request.json["messages"][0]["content"]: request for request in shop.node.requests}
    assert sent.keys() == {"One", "Two"}
    assert sent["One"].headers["x-cortex-priority"] == "-100"  # behind what any key can have
    listed = [batch.id async for batch in shop.client.batches.list()]
    assert listed == [begun.id]


async def test_a_refused_request_is_in_the_file_of_errors(shop):
    async def answer(request, writer):
        say = refuse(400, "invalid_value", "No.") if "Bad" in str(request.json) else answer_hello
        await say(request, writer)

    shop.node.answer = answer
    begun = await shop.begin(line("a"), line("b", "Bad"), line("c", model="nowhere"))
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    assert (made.status, made.request_counts.completed, made.request_counts.failed) == ("completed", 1, 2)
    errors = await shop.answers(made.error_file_id)
    assert errors["b"]["response"]["body"]["error"]["message"] == "No."
    assert errors["c"]["response"]["status_code"] == 404


async def test_a_request_that_is_refused_for_now_is_sent_again(shop):
    busy = refuse(429, "busy", retry_after="0")

    async def relent(request, writer):
        await (busy if len(shop.node.requests) < 3 else answer_hello)(request, writer)

    shop.node.answer = relent
    begun = await shop.begin(line("a"))
    await shop.work(begun.id)
    assert (await shop.client.batches.retrieve(begun.id)).request_counts.completed == 1


async def test_another_worker_goes_on_after_a_kill(shop):
    begun = await shop.begin(*(line(name, name) for name in "abc"))
    row = await in_thread(lambda: RequestBatch.objects.get(id=begun.id))
    done = {"id": "x", "custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None}
    partial = files.path_of(f"{row.id}.output")
    partial.write_text(json.dumps(done) + "\n" + json.dumps(done | {"custom_id": "b"})[:-5])  # torn
    long_ago = timezone.now() - timedelta(seconds=settings.LEASE_S + 1)
    held = {"lease": uuid.uuid4(), "heartbeat_at": long_ago, "status": "in_progress", "total": 3}
    await in_thread(lambda: RequestBatch.objects.filter(id=row.id).update(**held))
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    assert (made.status, made.request_counts.completed) == ("completed", 3)
    sent = sorted(request.json["messages"][0]["content"] for request in shop.node.requests)
    assert sent == ["b", "c"]
    assert (await shop.answers(made.output_file_id)).keys() == {"a", "b", "c"}


async def test_a_batch_that_another_worker_has_is_left_alone(shop):
    begun = await shop.begin(line("a"))
    held = {"lease": uuid.uuid4(), "heartbeat_at": timezone.now()}
    await in_thread(lambda: RequestBatch.objects.filter(id=begun.id).update(**held))
    await shop.work(begun.id)
    assert not shop.node.requests


async def test_lost_batches_are_announced_again(shop, redis_server):
    begun = await shop.begin(line("a"))
    redis_server.client.delete("cortex")
    await in_thread(batch_runs.reconcile)
    assert begun.id.encode() in redis_server.client.lindex("cortex", 0)


async def test_a_slice_ends_and_another_goes_on(shop, bounds):
    bounds.slice_s = 1e-9
    begun = await shop.begin(line("a"))
    await shop.work(begun.id)
    assert (await shop.client.batches.retrieve(begun.id)).status == "in_progress"
    bounds.slice_s = 20.0
    await shop.work(begun.id)
    assert (await shop.client.batches.retrieve(begun.id)).status == "completed"


async def test_a_batch_is_cancelled(shop):
    begun = await shop.begin(line("a"))
    assert (await shop.client.batches.cancel(begun.id)).status == "cancelling"
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    assert (made.status, shop.node.requests) == ("cancelled", [])
    with pytest.raises(openai.ConflictError):
        await shop.client.batches.cancel(begun.id)


async def test_what_had_no_turn_in_time_has_expired(shop):
    begun = await shop.begin(line("a"))
    past = timezone.now() - timedelta(seconds=1)
    await in_thread(lambda: RequestBatch.objects.filter(id=begun.id).update(expires_at=past))
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    assert made.status == "expired"
    assert (await shop.answers(made.error_file_id))["a"]["error"]["code"] == "batch_expired"


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line("a"), line("a")], "duplicate_custom_id", 2),
        ([line("a"), "{"], "invalid_json_line", 2),
        ([line("a", url="/v1/embeddings")], "invalid_url", 1),
        ([line("a", stream=True)], "invalid_value", 1),
        ([line("a", method="GET")], "invalid_method", 1),
        ([line("a", model=None)], "invalid_json_line", 1),
        (["\n"], "empty_file", None),
        ([line(str(number)) for number in range(4)], "too_many_requests", 4),
    ],
)
async def test_a_file_that_cannot_be_run_names_its_line(shop, bounds, lines, code, number):
    bounds.max_requests = 3
    begun = await shop.begin(*lines)
    await shop.work(begun.id)
    made = await shop.client.batches.retrieve(begun.id)
    (error,) = made.errors.data
    assert (made.status, error.code, error.line) == ("failed", code, number)
    assert not shop.node.requests


async def test_bad_batches_name_the_field(shop):
    plain = await shop.client.files.create(file=("a.txt", b"a"), purpose="user_data")
    good = {"input_file_id": await shop.upload(line("a")), "endpoint": CHAT, "completion_window": "24h"}
    for bad, param in (
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": plain.id}, "input_file_id"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await shop.client.batches.create(**good | bad)
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        await shop.client.batches.create(**good | {"input_file_id": "file_1"})


# --- files ---


async def test_files_are_kept_shown_and_deleted(shop):
    first, second = [await shop.upload(line(name)) for name in "ab"]
    about = await shop.client.files.retrieve(first)
    assert (about.filename, about.purpose, about.status) == ("in.jsonl", "batch", "processed")
    assert (await shop.client.files.content(first)).text == line("a")
    listed = [file.id async for file in shop.client.files.list(limit=1)]
    assert listed == [second, first]
    assert stat.S_IMODE(files.path_of(first).stat().st_mode) == 0o600
    assert (await shop.client.files.delete(first)).deleted is True
    assert not files.path_of(first).exists()
    with pytest.raises(openai.NotFoundError):
        await shop.client.files.content(first)


async def test_files_and_batches_are_their_owner_s_alone(shop):
    begun = await shop.begin(line("a"))
    client = shop.other.client
    for forbidden in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await forbidden(begun.input_file_id)
    for forbidden in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await forbidden(begun.id)
    assert [file.id async for file in client.files.list()] == []


async def test_a_full_disk_quota_takes_no_more(shop, bounds):
    bounds.max_total_bytes = 10
    with pytest.raises(openai.APIStatusError) as caught:
        await shop.upload(line("a"))
    assert (caught.value.status_code, caught.value.code) == (413, "storage_full")


async def test_bad_uploads_say_what_is_wrong(shop):
    with pytest.raises(openai.BadRequestError) as caught:
        await shop.client.files.create(file=("a", b"a"), purpose="no")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as caught:
        await shop.client.post("/files", cast_to=object, body={"purpose": "batch"})
    assert caught.value.code == "invalid_multipart"


async def test_expired_files_are_removed(shop):
    ident = await shop.upload(line("a"))
    past = timezone.now() - timedelta(seconds=1)
    await in_thread(lambda: StoredFile.objects.filter(id=ident).update(expires_at=past))
    with pytest.raises(openai.NotFoundError):
        await shop.client.files.retrieve(ident)
    assert await in_thread(files.prune) == 1
    assert not files.path_of(ident).exists()


async def test_only_the_site_makes_tokens_of_batches(shop):
    for secret in (token_of("nobody"), token_of("anonymous"), "cortex-batch.forged", token_of("x")[:-1]):
        client = shop.client.with_options(api_key=secret)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
