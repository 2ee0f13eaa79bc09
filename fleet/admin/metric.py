from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, get_args

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from fleet.admin.base import ReadOnlyAdmin, seconds
from fleet.admin.paging import BigTableAdmin, WindowFilter, known_values
from fleet.models import ApiKey, Node, Placement, RequestMetric
from fleet.records import Outcome
from fleet.services import timeline


def _names(model: type[Model], field: str) -> Callable[[], Iterable[str]]:
    return lambda: model._default_manager.values_list(field, flat=True).distinct()  # noqa: SLF001 - documented


BY_MODEL = known_values("model", _names(Placement, "model"))
BY_NODE = known_values("node", _names(Node, "name"))
BY_KEY = known_values("key", _names(ApiKey, "name"))


def explained(request: HttpRequest, request_id: str) -> HttpResponseRedirect:
    """The way to the page of the request of that id; to a search for it while its record is not there."""
    found = RequestMetric.objects.filter(request_id=request_id).first()
    if found is None:
        search = urlencode({"q": request_id})
        return HttpResponseRedirect(f"{reverse('admin:fleet_requestmetric_changelist')}?{search}")
    return HttpResponseRedirect(reverse("admin:fleet_requestmetric_change", args=[found.pk]))


@admin.register(RequestMetric)
class RequestMetricAdmin(ReadOnlyAdmin, BigTableAdmin):
    first_step = (
        "No request has been made yet. Send one in the Playground, or to /v1/chat/completions; it shows here "
        "within a second of its end."
    )
    list_display = (
        "started_at",
        "model",
        "node",
        "end",
        "ttft",
        "speed",
        "latency",
        "tokens",
        "waited",
        "key",
        "request_id",
    )
    list_filter = (
        WindowFilter,
        known_values("outcome", partial(get_args, Outcome)),
        "cold",
        BY_MODEL,
        BY_NODE,
        BY_KEY,
    )
    readonly_fields = ("explained",)
    sortable_by = ("started_at",)  # the others have no index
    search_fields = ("request_id__exact", "model__exact")
    search_help_text = "A request id, or a model's name"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        names = [field.name for field in RequestMetric._meta.fields if field.name != "id"]  # noqa: SLF001 - documented
        return ((None, {"fields": ("explained",)}), ("Record", {"fields": names}))

    @admin.display(description="where the time went")
    def explained(self, metric: RequestMetric) -> SafeString:
        spans = timeline.spans(metric)
        total = metric.latency_s or 1.0
        bars = [
            {
                "name": span.name,
                "duration": seconds(span.duration_s),
                "left": f"{100 * span.start_s / total:.2f}",
                "width": f"{100 * span.duration_s / total:.2f}",
                "note": span.note,
            }
            for span in spans
        ]
        shown = {
            "metric": metric,
            "spans": bars,
            "story": timeline.story(metric),
            "operations": timeline.operations(metric),
        }
        return render_to_string("admin/fleet/requestmetric/timeline.html", shown)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, term: str
    ) -> tuple[QuerySet, bool]:
        """Search request ids, then models: a condition on both columns would use the index of neither."""
        term = term.strip()
        if not term:
            return queryset, False
        by_id = queryset.filter(request_id=term)
        if by_id.exists():
            return by_id, False
        return queryset.filter(model=term), False

    @admin.display(description="outcome", ordering="outcome")
    def end(self, metric: RequestMetric) -> str:
        return f"{metric.outcome} ({metric.status})" if metric.outcome != "ok" else "ok"

    @admin.display(description="load")
    def waited(self, metric: RequestMetric) -> str:
        return "cold" if metric.cold else ""

    @admin.display(description="tokens (cached)")
    def tokens(self, metric: RequestMetric) -> str:
        cached = f" ({metric.cached_tokens:,})" if metric.cached_tokens else ""
        return f"{metric.prompt_tokens:,}{cached} + {metric.completion_tokens:,}"

    @admin.display(description="first token", ordering="ttft_s")
    def ttft(self, metric: RequestMetric) -> str:
        return seconds(metric.ttft_s)

    @admin.display(description="latency", ordering="latency_s")
    def latency(self, metric: RequestMetric) -> str:
        return seconds(metric.latency_s)

    @admin.display(description="tokens/s", ordering="tokens_per_second")
    def speed(self, metric: RequestMetric) -> str:
        return "–" if metric.tokens_per_second is None else f"{metric.tokens_per_second:.1f}"
