from __future__ import annotations

from django.db import models


class RequestMetric(models.Model):
    """A finished request: its record, as `ext.ledger` writes it. Durations in seconds."""

    request_id = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    model = models.CharField(max_length=200)
    node = models.CharField(max_length=100, blank=True)
    dialect = models.CharField(max_length=30)
    stream = models.BooleanField()
    status = models.PositiveSmallIntegerField()
    outcome = models.CharField(max_length=10)
    error_code = models.CharField(max_length=100, blank=True)
    key = models.CharField(max_length=100, blank=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    ttft_s = models.FloatField("first token, s", null=True)
    latency_s = models.FloatField("latency, s", default=0)
    queue_s = models.FloatField("queued, s", default=0)
    tokens_per_second = models.FloatField("tokens/s", null=True)
    cold = models.BooleanField(default=False)
    retries = models.PositiveSmallIntegerField(default=0)
    load_s = models.FloatField("waited for a load, s", default=0)
    overhead_s = models.FloatField("gateway's own time, s", null=True)
    finish_reason = models.CharField(max_length=30, blank=True)
    attempts = models.JSONField(default=list, help_text="Nodes that failed it, in order: [node, error code]")
    waits_s = models.JSONField("expected waits, s", default=list, help_text="Nodes compared: [node, wait]")
    notes = models.JSONField(default=list, help_text="How the node took it: [name, text]")

    class Meta:
        ordering = ["-started_at", "-id"]
        verbose_name = "request"
        indexes = [
            models.Index(fields=["request_id"], name="metric_by_request"),
            models.Index(fields=["-started_at", "-id"], name="metric_by_age"),
            models.Index(fields=["model", "-started_at"], name="metric_by_model"),
            models.Index(
                fields=["model", "-started_at", "-id"],
                condition=models.Q(outcome="error"),
                name="metric_errors_by_model",
            ),
            models.Index(fields=["node", "-started_at"], name="metric_by_node"),
            models.Index(fields=["outcome", "-started_at"], name="metric_by_outcome"),
            models.Index(fields=["key", "-started_at"], name="metric_by_key"),
        ]

    def __str__(self) -> str:
        return str(self.request_id)
