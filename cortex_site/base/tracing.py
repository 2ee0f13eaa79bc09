"""Spans to an OpenTelemetry collector, by OTLP over HTTP, with OpenTelemetry's own SDK.

Nothing here is on a request's way: spans are made of what is known when something has ended, by whichever
thread tells them, and the SDK's own thread sends them in batches. What a collector does not take is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from cortex_site.base.extras import cure
from cortex_site.base.settings_file import Section
from cortex_site.base.trace_context import TraceContext
from cortex_site.base.version import VERSION

NS = 1_000_000_000
Value = str | int | float | bool


class TracingSettings(Section):
    """Traces of requests, by OpenTelemetry; needs the extra `tracing`."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        description="An OTLP collector's URL for traces: http://localhost:4318/v1/traces; none: no traces",
    )
    sampling: float = Field(
        0.01, ge=0, le=1, description="The share of requests that are traced whose client does not say"
    )


class TracingError(Exception):
    """Traces are asked for and cannot be made; the message says what helps."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened within a span, at a time in Unix seconds."""

    name: str
    at: float
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A span that has ended; times are in Unix seconds."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    start: float
    end: float
    kind: Literal["server", "client", "internal"] = "internal"
    attributes: Mapping[str, Value] = field(default_factory=dict)
    moments: Sequence[Moment] = ()
    error: str = ""


class Tracer:
    """Sends spans under a service's name. Raises `TracingError` where the SDK is not installed."""

    def __init__(self, settings: TracingSettings, service: str, *, exporter: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            message = f"tracing.endpoint is set and OpenTelemetry is not installed: {cure('tracing')}"
            raise TracingError(message) from error
        self.sampling = settings.sampling
        self._resource = Resource.create({"service.name": service, "service.version": VERSION})
        self._processor = BatchSpanProcessor(exporter or OTLPSpanExporter(settings.endpoint))

    def tell(self, span: SpanRecord) -> None:
        """Queue a span for the SDK's thread. Never waits."""
        self._processor.on_end(self._made(span))

    def close(self) -> None:
        """Send what is queued."""
        self._processor.shutdown()

    def _made(self, span: SpanRecord) -> Any:
        from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        events = [Event(each.name, dict(each.attributes), _ns(each.at)) for each in span.moments]
        return ReadableSpan(
            span.name,
            context=_context(span.context, is_remote=False),
            parent=_context(span.parent, is_remote=True) if span.parent else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            events=events,
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=_ns(span.start),
            end_time=_ns(max(span.start, span.end)),
        )


def tracer(settings: TracingSettings, service: str) -> Tracer | None:
    """Return what sends spans; None where no collector is named. Raises `TracingError`."""
    return Tracer(settings, service) if settings.endpoint else None


def _context(context: TraceContext, *, is_remote: bool) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, is_remote, flags)


def _ns(seconds: float) -> int:
    return int(seconds * NS)
