from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from fleet.admin.base import memory_bar, seconds
from fleet.models import Node, Placement
from fleet.services.model_facts import ModelPlace
from fleet.services.usage_report import Used

register = template.Library()


@register.simple_tag
def node_memory(node: Node) -> SafeString | str:
    """The memory of all its devices that was in use when it was last heard."""
    devices = list(node.devices.all())
    if not devices:
        return "–"
    used = sum(device.memory_used_mb for device in devices)
    return memory_bar(used, sum(device.usable_mb for device in devices))


@register.simple_tag
def node_models(node: Node) -> str:
    """What it holds; nothing of a node that does not answer, which may hold something else by now."""
    if not node.healthy:
        return "unknown"
    rows = [row for row in node.placements.all() if row.state in Placement.RESIDENT]
    return ", ".join(map(_resident, rows)) or "–"


def _resident(row: Placement) -> str:
    """Its name, with its devices where it has several and its state where that is not `loaded`."""
    told = [f"on {'+'.join(map(str, row.devices))}"] if len(row.devices) > 1 else []
    if row.state != Placement.State.LOADED:
        told.append(str(row.state))
    return f"{row.model} ({', '.join(told)})" if told else str(row.model)


@register.simple_tag
def placement_state(row: Placement) -> str:
    """Its state, and how far a load or its download is; of a node that is away what it was."""
    state = str(row.state)
    if not row.node.healthy:
        return f"node away (was {state})"
    if state == Placement.State.LOADING and row.progress is not None:
        return f"loading, {round(100 * row.progress)} %"
    return f"asleep, {row.host_mb:,} MiB of host memory" if row.host_mb else state


@register.simple_tag
def memory_parts(place: ModelPlace) -> SafeString | str:
    """A bar of what the model's memory is for, and the same in words."""
    total = place.row.memory_mb
    if not total or place.row.state not in Placement.RESIDENT:
        return "–"
    if not place.parts:
        return f"{total:,}"
    bars = format_html_join(
        "", '<i style="width:{}%"></i>', [(round(100 * mb / total, 1),) for _, mb in place.parts]
    )
    words = ", ".join(f"{name} {mb:,}" for name, mb in place.parts)
    return format_html('<span class="parts" aria-hidden="true">{}</span>{}: {}', bars, f"{total:,}", words)


@register.simple_tag
def usage_cells(used: Used) -> SafeString:
    """What was used, as the cells of a row."""
    counts = (used.requests, used.errors, used.prompt_tokens, used.cached_tokens, used.completion_tokens)
    words = (*(f"{count:,}" for count in counts), f"{used.cost:,.2f}")
    return format_html_join("", "<td>{}</td>", ((word,) for word in words))


@register.simple_tag
def duration(value: float | None) -> str:
    return seconds(value)
