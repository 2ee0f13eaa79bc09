from __future__ import annotations

from django.contrib import admin

from fleet.admin.base import ReadOnlyAdmin, seconds
from fleet.models import RequestMetric


@admin.register(RequestMetric)
class RequestMetricAdmin(ReadOnlyAdmin):
    """Never counts the whole table: with millions of rows that is what takes long."""

    list_display = (
        "started_at",
        "model",
        "node",
        "outcome",
        "ttft",
        "speed",
        "latency",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "cold",
        "status",
        "dialect",
        "key",
        "request_id",
    )
    list_filter = ("outcome", "dialect", "stream", "cold", "model", "node", "key")
    search_fields = ("request_id__exact", "model__startswith")
    search_help_text = "A request id, or the beginning of a model's name"
    date_hierarchy = "started_at"
    list_per_page = 50
    show_full_result_count = False

    @admin.display(description="first token", ordering="ttft_s")
    def ttft(self, metric: RequestMetric) -> str:
        return seconds(metric.ttft_s)

    @admin.display(description="latency", ordering="latency_s")
    def latency(self, metric: RequestMetric) -> str:
        return seconds(metric.latency_s)

    @admin.display(description="tokens/s", ordering="tokens_per_second")
    def speed(self, metric: RequestMetric) -> str:
        return "–" if metric.tokens_per_second is None else f"{metric.tokens_per_second:.1f}"
