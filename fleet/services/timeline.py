"""Where the time of one request went, by its record and the operations that ran meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet

from fleet.models import Operation, RequestMetric


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a request's time; `start_s` is seconds after it was received."""

    name: str
    start_s: float
    duration_s: float
    note: str = ""


def spans(metric: RequestMetric) -> list[Span]:
    """The spans from the first byte in to the last byte out, without gaps and without those of no length."""
    waited = metric.queue_s
    load = min(metric.load_s, waited)
    end = metric.latency_s
    own = min(metric.overhead_s or 0.0, max(0.0, end - waited))
    ends = [
        ("gateway", own, ""),
        ("load", own + load, "the model was not loaded"),
        ("queue", own + waited, "for a replica or a free connection"),
    ]
    if metric.ttft_s is None:
        ends.append(("node", end, _prompt_note(metric)))
    else:
        ends.append(("first token", metric.ttft_s, _prompt_note(metric)))
        ends.append(("answer", end, _answer_note(metric)))
    return _without_gaps(ends)


def operations(metric: RequestMetric) -> QuerySet:
    """The model's operations that were active while the request waited, and their children."""
    began = metric.started_at
    waited_s = metric.latency_s if metric.ttft_s is None else metric.queue_s
    meanwhile = Q(created_at__lte=began + timedelta(seconds=waited_s))
    meanwhile &= Q(finished_at=None) | Q(finished_at__gte=began)
    own = Operation.objects.filter(meanwhile, model=metric.model, parent=None)
    return Operation.objects.filter(Q(pk__in=own) | Q(parent__in=own)).order_by("created_at")


def story(metric: RequestMetric) -> list[str]:
    """Sentences on how replicas compared, which attempts failed, what the node notes, and the end."""
    lines = [_comparison(metric)] if metric.waits_s else []
    lines += [
        f"{node or 'No node'} failed it: {code}. Another attempt was made." for node, code in metric.attempts
    ]
    lines += [f"The node notes, {name}: {text}" for name, text in metric.notes]
    where = f"on {metric.node}" if metric.node else "before it reached a node"
    match metric.outcome:
        case "cancelled":
            lines.append(f"The client left after {metric.latency_s:.2f} s, {where}.")
        case "ok":
            reason = f" ({metric.finish_reason})" if metric.finish_reason else ""
            lines.append(f"Answered in full {where}{reason}.")
        case _:
            lines.append(f"It ended with {metric.status} {metric.error_code}, {where}.")
    return lines


def _comparison(metric: RequestMetric) -> str:
    waits = ", ".join(f"{node} {wait_s:.2f} s" for node, wait_s in sorted(metric.waits_s, key=_wait))
    return f"Replicas compared by the wait expected there: {waits}."


def _wait(pair: list[Any]) -> float:
    return float(pair[1])


def _prompt_note(metric: RequestMetric) -> str:
    if not metric.prompt_tokens:
        return ""
    cached = f", {metric.cached_tokens:,} of them cached" if metric.cached_tokens else ""
    return f"{metric.prompt_tokens:,} tokens in{cached}"


def _answer_note(metric: RequestMetric) -> str:
    speed = "" if metric.tokens_per_second is None else f", {metric.tokens_per_second:.1f} a second"
    return f"{metric.completion_tokens:,} tokens out{speed}"


def _without_gaps(ends: list[tuple[str, float, str]]) -> list[Span]:
    found: list[Span] = []
    at = 0.0
    for name, end, note in ends:
        if end > at:
            found.append(Span(name, at, end - at, note))
            at = end
    return found
