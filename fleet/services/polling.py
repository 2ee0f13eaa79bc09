"""Polls nodes: asks each for its state and records the answer.

All nodes are asked at once, each with a deadline of its own, and each answer is written as it comes: a slow
node delays no other. An answer that fails, is late or is not understood is a miss; a node is unhealthy after
`poll.misses_until_unhealthy` of them, and healthy after one answer. Values out of range are clamped, and an
answer that the database refuses is a miss too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
from django.db import DataError, IntegrityError, connections
from django.db.models import F
from pydantic import TypeAdapter

from cortex_site.config import current
from cortex_site.config.cortex_toml import PollSettings
from fleet.foreign.models import PATH, KeyRefusedError, ModelsError, ServedModel, read_answer
from fleet.models import Node
from fleet.services import reports
from fleet.services.configuration import node_config
from fleet.services.neuron_client import NodeError, headers, refusal, tls, understood, unreachable
from neuron.wire import PROTOCOL, Discovery, Health, ModelInfo

log = logging.getLogger("cortex.poll")

AT_ONCE = 64
_HEALTH = TypeAdapter(Health)
_DISCOVERY = TypeAdapter(Discovery)
_MODELS = TypeAdapter(list[ModelInfo])


@dataclass(frozen=True, slots=True)
class Report:
    """The answers of one neuron; `discovery` only when it was asked for it."""

    health: Health
    models: list[ModelInfo]
    discovery: Discovery | None


# None: a server answers, and asks to be polled less often
Answer = Report | list[ServedModel] | NodeError | None


def poll(*, names: Collection[str] | None = None) -> None:
    """Ask all nodes, or those in `names`, and record the answers."""
    rows = Node.objects.all()
    if names is not None:
        rows = rows.filter(name__in=names)
    if nodes := list(rows):
        asyncio.run(_poll(nodes, current().poll))


async def _poll(nodes: list[Node], limits: PollSettings) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "poll-writer") as writer:
        # no timeout of httpx: `_ask` has one for the whole interview
        async with httpx.AsyncClient(verify=tls(), trust_env=False, timeout=None) as http:  # noqa: S113

            async def watch(node: Node) -> None:
                async with gate:
                    answer = await _ask(http, node, limits.timeout_s)
                await loop.run_in_executor(writer, record, node, answer, limits)

            try:
                await asyncio.gather(*(watch(node) for node in nodes))
            finally:
                writer.submit(connections.close_all)


async def _ask(http: httpx.AsyncClient, node: Node, timeout_s: float) -> Answer:
    try:
        async with asyncio.timeout(timeout_s):  # of the whole answer: one that trickles in is late too
            if node.is_foreign:
                return await _list(http, node)
            return await _interview(http, node)
    except TimeoutError:
        return NodeError("node_unreachable", f"{node.name} does not answer within {timeout_s:g} s")
    except httpx.HTTPError as error:
        return unreachable(node.name, error)
    except NodeError as error:
        return error


async def _interview(http: httpx.AsyncClient, node: Node) -> Report:
    async def get(path: str) -> httpx.Response:
        response = await http.get(node.endpoint + path, headers=headers(node.token))
        if response.is_error:
            raise refusal(node.name, response)
        return response

    health: Health = understood(node.name, _HEALTH, await get("/health"))
    models: list[ModelInfo] = understood(node.name, _MODELS, await get("/models"))
    discovery: Discovery | None = None
    if not node.healthy or health.pid != node.pid:  # the hardware is read when a daemon starts
        discovery = understood(node.name, _DISCOVERY, await get("/discovery"))
        if discovery.protocol != PROTOCOL:
            message = f"{node.name} speaks protocol {discovery.protocol}, this cortex speaks {PROTOCOL}"
            raise NodeError("node_protocol", message, status=200)
    return Report(health, models, discovery)


async def _list(http: httpx.AsyncClient, node: Node) -> list[ServedModel] | None:
    """The models that a server lists; None when it asks to be asked less often."""
    config = node_config(node)
    response = await http.get(config.base + config.path(PATH), headers=headers(node.token))
    try:
        return read_answer(response.status_code, response.content, node.model_names)
    except KeyRefusedError as error:
        message = f"{node.name} does not accept the API key ({error.status})"
        raise NodeError("node_unauthorized", message, status=error.status) from error
    except ModelsError as error:
        raise NodeError("node_not_understood", f"{node.name}: {error}", status=error.status) from error


def record(node: Node, answer: Answer, limits: PollSettings) -> None:
    """Write one node's answer, or a miss."""
    if isinstance(answer, NodeError):
        _miss(node, answer.message, limits)
        return
    try:
        if isinstance(answer, Report):
            reports.write(node, answer.health, answer.models, answer.discovery)
        elif answer is not None:
            reports.write_served(node, answer)
    except (DataError, IntegrityError) as error:
        _miss(node, f"{node.name} sent values that cannot be recorded: {error}", limits)


def _miss(node: Node, reason: str, limits: PollSettings) -> None:
    row = Node.objects.filter(pk=node.pk)
    row.update(misses=F("misses") + 1, reason=reason)
    if row.filter(healthy=True, misses__gte=limits.misses_until_unhealthy).update(healthy=False):
        log.warning("node is unhealthy", extra={"node": node.name, "reason": reason})


def poll_node(node: Node) -> None:
    """Poll one node now, because an operation changed it or depends on it."""
    poll(names=[node.name])
