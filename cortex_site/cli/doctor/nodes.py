"""The configured nodes: whether each answers us, speaks our protocol, has our time and can use its GPUs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from cortex_site.base.certificate import trusting
from cortex_site.cli.doctor.finding import Finding, clock
from cortex_site.config.cortex_toml import CortexConfig, NeuronEntry
from neuron.wire import PROTOCOL, Discovery

AT_ONCE = 16


def all_of(config: CortexConfig) -> Iterator[Finding]:
    """Ask all nodes at once; those of the admin and those that joined are in `cortex status`."""
    if not config.neurons:
        cure = "add one here or in the admin, or let one join (`cortex join-token`)"
        yield Finding("nodes", "no [[neurons]]", cure, fatal=False)
        return
    timeout_s = config.poll.timeout_s
    with (
        httpx.Client(timeout=timeout_s, verify=_authorities(config)) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        for findings in pool.map(lambda node: list(_one(client, node)), config.neurons):
            yield from findings


def _authorities(config: CortexConfig) -> ssl.SSLContext | bool:
    return trusting(config.gateway.node_ca) if config.gateway.node_ca else True


def _one(client: httpx.Client, node: NeuronEntry) -> Iterator[Finding]:
    subject = f"node {node.name}"
    path = "/v1/models" if node.kind == "openai" else "/discovery"
    headers = {"authorization": f"Bearer {node.token}"} if node.token else {}
    try:
        answer = client.get(f"{node.endpoint}{path}", headers=headers)
    except httpx.HTTPError as error:
        cure = "start it there, or mend its endpoint, a firewall or its certificate"
        yield Finding(
            subject, f"{node.endpoint} does not answer: {error or type(error).__name__}", cure, fatal=False
        )
        return
    if answer.status_code in {401, 403}:
        yield Finding(
            subject, f"it refuses our token ({answer.status_code})", "give both the same token", fatal=False
        )
        return
    if answer.is_error:
        cure = "look whether the endpoint is that of such a server"
        yield Finding(subject, f"it answered {answer.status_code} to {path}", cure, fatal=False)
        return
    yield from _understood(subject, answer) if node.kind == "neuron" else [Finding(subject, "it answers")]
    if date := answer.headers.get("date"):
        yield clock(subject, parsedate_to_datetime(date))


def _understood(subject: str, answer: httpx.Response) -> Iterator[Finding]:
    try:
        found = Discovery.model_validate_json(answer.content)
    except ValidationError:
        yield Finding(
            subject, "what answers there is no neuron", 'say kind = "openai" of another server', fatal=False
        )
        return
    devices = ", ".join(f"{device.name}" for device in found.devices)
    yield Finding(subject, f"neuron {found.version} on {devices}")
    if found.protocol != PROTOCOL:
        fact = f"it speaks protocol {found.protocol}, this cortex {PROTOCOL}"
        yield Finding(subject, fact, "update one of them", fatal=False)
    if found.cuda_unavailable_reason:
        what, _, cure = found.cuda_unavailable_reason.rstrip(".").partition("; ")
        yield Finding(
            subject, f"CUDA cannot be used: {what}", cure or "look at nvidia-smi there", fatal=False
        )
