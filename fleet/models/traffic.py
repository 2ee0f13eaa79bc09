from __future__ import annotations

from django.db import models


class TrafficSample(models.Model):
    """The sums of the requests that began within a minute, or within an hour: what the home page plots.

    `first_token` and `token_gap` count requests by the size of that duration, see `fleet.services.traffic`.
    """

    start = models.DateTimeField(help_text="UTC")
    width_s = models.PositiveIntegerField()
    requests = models.PositiveIntegerField()
    errors = models.PositiveIntegerField()
    rejected = models.PositiveIntegerField()
    cold = models.PositiveIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    queue_s = models.FloatField()
    first_token = models.JSONField(default=dict)
    token_gap = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["width_s", "start"], name="one_sample_per_time")]

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} for {self.width_s} s"
