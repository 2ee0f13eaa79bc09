"""Watching the nodes: ask each one, write down what it says.

All nodes are asked at once, each within its own deadline, and each answer is written as it comes: a slow
node delays nobody. A node that does not answer, or not in our language, has missed; so many misses make it
unhealthy, one answer heals it. What a node says is recorded, not believed: values outside their range are
brought into it, and what a database would refuse counts as a miss.
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
from fleet.foreign.models import PATH, KeyRefusedError, ModelsError, ServedModel, read_answer
from fleet.models import Node
from fleet.services import sightings
from fleet.services.configuration import node_config
from fleet.services.neuron_client import NodeError, headers, refusal, tls, understood, unreachable
from neuron.wire import PROTOCOL, Discovery, Health, ModelInfo

log = logging.getLogger("cortex.poll")

AT_ONCE = 64
_HEALTH, _DISCOVERY = TypeAdapter(Health), TypeAdapter(Discovery)
_MODELS = TypeAdapter(list[ModelInfo])


@dataclass(frozen=True, slots=True)
class Report:
    """What one node said; `discovery` only when it was asked for it."""

    health: Health
    models: list[ModelInfo]
    discovery: Discovery | None


Answer = Report | list[ServedModel] | NodeError | None  # None: a server was asked too often, and is there


def poll(*, names: Collection[str] | None = None) -> None:
    """Ask all nodes, or those in `names`, and record the answers."""
    nodes = list(Node.objects.all() if names is None else Node.objects.filter(name__in=names))
    if nodes:
        asyncio.run(_poll(nodes))


async def _poll(nodes: list[Node]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "poll-writer") as writer:
        # no timeout of httpx's own: `_ask` has one over everything
        async with httpx.AsyncClient(verify=tls(), trust_env=False, timeout=None) as http:  # noqa: S113

            async def watch(node: Node) -> None:
                async with gate:
                    answer = await _ask(http, node)
                await loop.run_in_executor(writer, record, node, answer)

            try:
                await asyncio.gather(*(watch(node) for node in nodes))
            finally:
                writer.submit(connections.close_all)


async def _ask(http: httpx.AsyncClient, node: Node) -> Answer:
    timeout_s = current().poll.timeout_s
    try:
        async with asyncio.timeout(timeout_s):  # over everything: a node that trickles is slow too
            return await (_list(http, node) if node.is_foreign else _interview(http, node))
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
    if not node.healthy or health.pid != node.pid:  # what a host is changes with its daemon only
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


def record(node: Node, answer: Answer) -> None:
    """Write one node's answer, or its silence."""
    if isinstance(answer, NodeError):
        _miss(node, answer.message)
        return
    try:
        if isinstance(answer, Report):
            sightings.write(node, answer.health, answer.models, answer.discovery)
        elif answer is not None:
            sightings.write_served(node, answer)
    except (DataError, IntegrityError) as error:
        _miss(node, f"{node.name} says what cannot be recorded: {error}")


def _miss(node: Node, reason: str) -> None:
    row = Node.objects.filter(pk=node.pk)
    row.update(misses=F("misses") + 1, reason=reason)
    limit = current().poll.misses_until_unhealthy
    if row.filter(healthy=True, misses__gte=limit).update(healthy=False):
        log.warning("node is unhealthy", extra={"node": node.name, "reason": reason})


def sight(node: Node) -> None:
    """Poll one node now, as after an operation changed it."""
    poll(names=[node.name])
