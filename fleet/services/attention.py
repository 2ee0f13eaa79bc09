"""What needs a person: one line for each thing that the fleet cannot mend by itself, with where to look."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.urls import reverse
from django.utils import timezone

from cortex_site.base.certificate import valid_until
from cortex_site.config import current
from fleet.models import ApiKey, Device, Node, Placement
from fleet.services import settings_warnings

SOON = timedelta(days=14)  # before a key or a certificate expires
LEAST_FREE_SHARE = 0.1  # of the disk with the state directory


@dataclass(frozen=True, slots=True)
class Matter:
    """One thing to look at; `page` is the address of what it is about, or empty."""

    text: str
    page: str = ""


def found() -> list[Matter]:
    """Return everything that needs a person, the most urgent kinds first."""
    kinds = (_nodes, _devices, _failed_loads, _warnings, _certificate, _keys, _disk, _contradictions)
    return [matter for kind in kinds for matter in kind()]


def _nodes() -> Iterator[Matter]:
    for node in Node.objects.filter(healthy=False).order_by("name"):
        seen = (
            f"{node.name} was last heard {node.last_seen_at:%Y-%m-%d %H:%M} UTC" if node.last_seen_at else ""
        )
        text = seen or f"{node.name} has never answered"
        yield Matter(f"{text}: {node.reason}" if node.reason else text, _page(node))


def _warnings() -> Iterator[Matter]:
    for node in Node.objects.filter(healthy=True).exclude(warnings=[]).order_by("name"):
        for warning in node.warnings:
            yield Matter(f"{node.name}: {warning}", _page(node))


def _devices() -> Iterator[Matter]:
    devices = Device.objects.filter(node__healthy=True).exclude(state="ready").select_related("node")
    for device in devices.order_by("node__name", "index"):
        text = f"device {device.index} of {device.node.name} is {device.state}"
        yield Matter(f"{text}: {device.reason}" if device.reason else text, _page(device.node))


def _failed_loads() -> Iterator[Matter]:
    failed = Placement.objects.filter(state=Placement.State.FAILED).select_related("node")
    for row in failed.order_by("model"):
        yield Matter(f"{row.model} could not be loaded on {row.node.name}: {row.error_message}", _page(row))


def _certificate() -> Iterator[Matter]:
    gateway = current().gateway
    if objection := gateway.tls_objection():
        yield Matter(objection)
    elif gateway.tls_cert and (ends := valid_until(gateway.tls_cert)) and ends - timezone.now() < SOON:
        yield Matter(
            f"{gateway.tls_cert} is valid until {ends:%Y-%m-%d %H:%M} UTC; put a new one in its place"
        )


def _keys() -> Iterator[Matter]:
    now = timezone.now()
    soon = ApiKey.objects.filter(of_session=False, expires_at__gte=now, expires_at__lt=now + SOON)
    for key in soon.order_by("expires_at"):
        yield Matter(f"the key {key.name} expires {key.expires_at:%Y-%m-%d %H:%M} UTC", _page(key))


def _disk() -> Iterator[Matter]:
    home = current().home
    usage = shutil.disk_usage(home)
    if usage.free < LEAST_FREE_SHARE * usage.total:
        yield Matter(f"{usage.free >> 30} of {usage.total >> 30} GiB are free where {home} is")


def _contradictions() -> Iterator[Matter]:
    return (Matter(line) for line in settings_warnings.found())


def _page(row: Node | Placement | ApiKey) -> str:
    return str(reverse(f"admin:fleet_{row._meta.model_name}_change", args=[row.pk]))  # noqa: SLF001 - documented
