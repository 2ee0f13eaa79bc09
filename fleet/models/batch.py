from __future__ import annotations

from django.db import models
from django.utils import timezone

from fleet.batches import BatchStatus


class StoredFile(models.Model):
    """A client's file, or one with the answers of a batch. Its bytes are on disk, under its id."""

    id = models.CharField(primary_key=True, max_length=64)
    owner = models.CharField(max_length=64, help_text="The digest of the API key that it belongs to")
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=20)
    bytes = models.PositiveBigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["owner", "-created_at"], name="file_by_owner")]

    def __str__(self) -> str:
        return f"{self.filename} ({self.id})"


class RequestBatch(models.Model):
    """Requests of a file that are answered when there is time: `/v1/batches`.

    The worker that holds `lease` renews `heartbeat_at`. What is answered is in files beside the database, one
    line each, so a worker that goes on after a kill repeats only what was under way.
    """

    id = models.CharField(primary_key=True, max_length=64)
    owner = models.CharField(max_length=64, help_text="The digest of the API key that it belongs to")
    key = models.CharField(max_length=100, blank=True, help_text="The API key's name")
    endpoint = models.CharField(max_length=40)
    input_file = models.CharField(max_length=64)
    output_file = models.CharField(max_length=64, blank=True)
    error_file = models.CharField(max_length=64, blank=True)
    status = models.CharField(
        max_length=12,
        choices=[(status.value, status.value.replace("_", " ")) for status in BatchStatus],
        default=BatchStatus.VALIDATING.value,
    )
    errors = models.JSONField(default=list, help_text="Why its file cannot be run")
    metadata = models.JSONField(default=dict)
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    lease = models.UUIDField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    times = models.JSONField(default=dict, help_text="When it reached each status, seconds since the epoch")

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = "batch"
        verbose_name_plural = "batches"
        indexes = [
            models.Index(fields=["owner", "-created_at"], name="batch_by_owner"),
            models.Index(fields=["status", "heartbeat_at"], name="batch_by_status"),
        ]

    def __str__(self) -> str:
        return str(self.id)
