from __future__ import annotations

from django.db import models
from django.utils import timezone


class AuditEntry(models.Model):
    """One decision of a person or of the fleet itself: who, what, on what, and why. Never changed."""

    at = models.DateTimeField(default=timezone.now)
    who = models.CharField(max_length=200)
    action = models.CharField(max_length=50)
    target = models.CharField(max_length=300)
    why = models.CharField(max_length=500, blank=True)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["-at", "-id"], name="audit_by_age"),
            models.Index(fields=["who", "-at"], name="audit_by_who"),
            models.Index(fields=["action", "-at"], name="audit_by_action"),
        ]

    def __str__(self) -> str:
        return f"{self.who}: {self.action} {self.target}"
