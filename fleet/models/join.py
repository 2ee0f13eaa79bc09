from __future__ import annotations

from django.db import models
from django.utils import timezone


class JoinToken(models.Model):
    """The credential with which a neuron joins the fleet. The token itself is shown once and never stored."""

    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    prefix = models.CharField(max_length=20, editable=False, help_text="Identifies it")
    digest = models.CharField(max_length=64, unique=True, editable=False, help_text="SHA-256, hex")
    expires_at = models.DateTimeField()
    revoked = models.BooleanField(default=False, help_text="Nodes that have joined with it stay.")
    made_by = models.CharField(max_length=200, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return str(self.name or self.prefix)

    @property
    def state(self) -> str:
        if self.revoked:
            return "revoked"
        return "expired" if self.expires_at <= timezone.now() else "valid"
