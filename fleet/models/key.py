from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models as db

from fleet.key_limits import KeyLimits
from fleet.models.version import Configured


def string_list(value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValidationError('Expected a list of strings, such as ["qwen3-*"].')


def _limit(verbose_name: str, help_text: str) -> db.PositiveBigIntegerField:
    at_least_one = [MinValueValidator(1)]
    return db.PositiveBigIntegerField(
        verbose_name, null=True, blank=True, validators=at_least_one, help_text=help_text
    )


class ApiKey(Configured):
    """The credential of a client. The key itself is shown once and never stored."""

    class Period(db.TextChoices):
        HOUR = "hour"
        DAY = "day"
        MONTH = "month"

    name = db.CharField(max_length=100, unique=True)
    prefix = db.CharField(max_length=20, editable=False, help_text="Identifies it")
    digest = db.CharField(max_length=64, unique=True, editable=False, help_text="SHA-256, hex")
    models = db.JSONField(
        default=list,
        blank=True,
        validators=[string_list],
        help_text='Globs of models it may use: ["qwen3-*"]; empty: all.',
    )
    requests_per_minute = _limit("requests per minute", "Empty: no limit.")
    tokens_per_minute = _limit("tokens per minute", "Prompt and answer together. Empty: no limit.")
    concurrent_requests = _limit("concurrent requests", "Under way at once. Empty: no limit.")
    budget_tokens = _limit("token budget", "Tokens per period. Empty: no limit.")
    budget_period = db.CharField(
        max_length=5, choices=Period.choices, default=Period.MONTH, help_text="Calendar periods, UTC."
    )
    priority = db.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-99), MaxValueValidator(99)],
        help_text="Requests of a higher priority go first; keys of equal priority share a model fairly.",
    )
    disabled = db.BooleanField(default=False)
    of_session = db.BooleanField(
        default=False,
        editable=False,
        help_text="Of a user's playground, gone with the session",
    )
    expires_at = db.DateTimeField(null=True, blank=True)
    created_at = db.DateTimeField(auto_now_add=True)
    last_used_at = db.DateTimeField("last used", null=True, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return str(self.name)

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent_requests=self.concurrent_requests,
            budget_tokens=self.budget_tokens,
            budget_period=self.budget_period,
        )
