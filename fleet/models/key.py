from __future__ import annotations

from django.db import models as db

from fleet.models.version import Configured


class ApiKey(Configured):
    """What a client signs in with. The key itself is shown once and never stored."""

    name = db.CharField(max_length=100, unique=True)
    prefix = db.CharField(max_length=20, editable=False, help_text="Enough to recognise it by")
    digest = db.CharField(max_length=64, unique=True, editable=False, help_text="SHA-256, hex")
    models = db.JSONField(
        default=list, blank=True, help_text='Globs of models it may use: ["qwen3-*"]; empty: all.'
    )
    disabled = db.BooleanField(default=False)
    expires_at = db.DateTimeField(null=True, blank=True)
    created_at = db.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return str(self.name)
