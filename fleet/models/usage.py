from __future__ import annotations

from django.db import models


class UsageRollup(models.Model):
    """The sums of one hour's requests that share model, node, key and dialect.

    Times are in seconds; `timed` counts the requests that reached a first token.
    """

    hour = models.DateTimeField(help_text="Its beginning, UTC")
    model = models.CharField(max_length=200)
    node = models.CharField(max_length=100, blank=True)
    key = models.CharField(max_length=100, blank=True)
    dialect = models.CharField(max_length=30)
    requests = models.PositiveIntegerField()
    errors = models.PositiveIntegerField()
    cancelled = models.PositiveIntegerField()
    rejected = models.PositiveIntegerField()
    cold = models.PositiveIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField()
    latency_s = models.FloatField()
    ttft_s = models.FloatField()
    timed = models.PositiveIntegerField()
    generated = models.PositiveBigIntegerField(default=0, help_text="Tokens of answers whose speed is known")
    generated_s = models.FloatField(default=0, help_text="What these took")

    class Meta:
        ordering = ["-hour", "model", "node", "key", "dialect"]
        verbose_name = "usage"
        verbose_name_plural = "usage by hour"
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "model", "node", "key", "dialect"], name="usage_once_per_hour"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.hour:%Y-%m-%d %H}:00"


class UsageDay(models.Model):
    """The sums of one day's hours that share model, node and key: what the usage page reads."""

    day = models.DateField(help_text="UTC")
    model = models.CharField(max_length=200)
    node = models.CharField(max_length=100, blank=True)
    key = models.CharField(max_length=100, blank=True)
    requests = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "model", "node", "key"], name="usage_once_per_day")
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.day}"
