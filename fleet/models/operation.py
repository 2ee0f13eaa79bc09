from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

ACTIVE = ("pending", "running")


def target(model: str, place: str, device: int | None) -> str:
    """`m on beast`, `m` where no node is chosen yet, `beast`, `beast:0`."""
    if model:
        return f"{model} on {place}" if place else model
    return place if device is None else f"{place}:{device}"


class Operation(models.Model):
    """One piece of lifecycle work: who asked, why, what was decided, how it went.

    pending → running → succeeded | failed; a running one that has to wait goes back to pending, a pending
    one may be cancelled. While it runs it belongs to the holder of `lease`, who proves every few seconds
    that it lives (`heartbeat_at`).
    """

    class Kind(models.TextChoices):
        LOAD = "load"
        UNLOAD = "unload"
        EVICT = "evict"
        DRAIN = "drain"  # a node: it is cordoned, and all of its models leave
        RESTART = "restart"  # a device's worker; its models are loaded again
        DEFRAG = "defrag"  # the same, for memory in one piece

    class State(models.TextChoices):
        PENDING = "pending"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    kind = models.CharField(max_length=10, choices=Kind.choices)
    model = models.CharField(max_length=200, blank=True, help_text="Empty where it is about a node or device")
    wanted_node = models.CharField(max_length=100, blank=True, help_text="Asked for; empty: anywhere")
    node = models.CharField(max_length=100, blank=True, help_text="Where it happens")
    device = models.PositiveIntegerField(null=True, help_text="Of a restart: which")
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children")
    requested_by = models.CharField(max_length=200, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    progress = models.FloatField(null=True)
    message = models.TextField(blank=True)
    error_code = models.CharField(max_length=100, blank=True)
    explanation = models.JSONField(default=list, help_text="Per node: chosen, or why not")
    victims = models.JSONField(default=list, help_text="Models that make room on the chosen node")
    failed_nodes = models.JSONField(default=list)
    attempts = models.PositiveIntegerField(default=0, help_text="Workers that died over it")
    unless_busy = models.BooleanField(default=False, help_text="Give way to requests under way")
    force = models.BooleanField(default=False, help_text="End requests under way instead of waiting")
    replica = models.BooleanField(default=False, help_text="One more beside those that are loaded")
    lease = models.UUIDField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now, help_text="Not to be tried before")
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["model", "-id"], name="operation_by_model"),
            models.Index(fields=["node", "-id"], name="operation_by_node"),
            models.Index(fields=["state", "due_at"], name="operation_by_state"),
            models.Index(fields=["-created_at"], name="operation_by_age"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["model"], condition=Q(kind="load", state__in=ACTIVE), name="one_active_load_per_model"
            ),
            models.UniqueConstraint(
                fields=["model", "wanted_node"],
                condition=Q(kind="unload", state__in=ACTIVE),
                name="one_active_unload_per_placement",
            ),
            models.UniqueConstraint(
                fields=["wanted_node"],
                condition=Q(kind="drain", state__in=ACTIVE),
                name="one_active_drain_per_node",
            ),
            models.UniqueConstraint(
                fields=["wanted_node", "device"],
                condition=Q(kind__in=["restart", "defrag"], state__in=ACTIVE),
                name="one_active_restart_per_device",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "running", "succeeded", "failed", "cancelled"]),
                name="operation_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} #{self.pk}"

    @property
    def subject(self) -> str:
        """`load of m on beast`, `defrag of beast:0`."""
        return f"{self.kind} of {self.target}"

    @property
    def target(self) -> str:
        return target(self.model, self.node or self.wanted_node, self.device)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE
