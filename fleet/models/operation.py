from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from django.db import models
from django.db.models import Q
from django.utils import timezone

from fleet.operations import ACTIVE, GROUPS, OperationKind, OperationState, target


def _values(names: Iterable[StrEnum]) -> list[str]:
    """Plain strings, the way migrations write them."""
    return [name.value for name in names]


def _choices(names: Iterable[StrEnum]) -> list[tuple[str, str]]:
    return [(name.value, name.value.capitalize()) for name in names]


class Operation(models.Model):
    """A load, unload or other piece of lifecycle work: who asked for what and why, and how it went.

    `fleet.operations` says what depends on its kind. While it runs, the worker that holds `lease` renews
    `heartbeat_at` every few seconds.
    """

    kind = models.CharField(max_length=10, choices=_choices(OperationKind))
    model = models.CharField(max_length=200, blank=True, help_text="Empty where it is about a node or device")
    wanted_node = models.CharField(max_length=100, blank=True, help_text="The node asked for; empty: any")
    node = models.CharField(max_length=100, blank=True, help_text="Where it happens; empty until chosen")
    device = models.PositiveIntegerField(null=True, help_text="The device of a restart or a defragmentation")
    state = models.CharField(
        max_length=10, choices=_choices(OperationState), default=OperationState.PENDING.value
    )
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children")
    requested_by = models.CharField(max_length=200, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    progress = models.FloatField(null=True)
    message = models.TextField(blank=True)
    error_code = models.CharField(max_length=100, blank=True)
    explanation = models.JSONField(default=list, help_text="The verdict on each node")
    victims = models.JSONField(default=list, help_text="Models that are evicted to make room")
    failed_nodes = models.JSONField(default=list)
    attempts = models.PositiveIntegerField(default=0, help_text="Workers that died while they carried it out")
    unless_busy = models.BooleanField(default=False, help_text="Cancel it if there are requests under way")
    force = models.BooleanField(default=False, help_text="End requests under way instead of waiting")
    replica = models.BooleanField(default=False, help_text="Load the model although it is loaded elsewhere")
    traceparent = models.CharField(
        max_length=55, blank=True, help_text="Of the request that asked for it, where that is traced"
    )
    lease = models.UUIDField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now, help_text="It is not tried earlier")
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
            *(
                models.UniqueConstraint(
                    fields=group.columns,
                    condition=Q(kind__in=_values(kinds), state__in=_values(ACTIVE)),
                    name=group.constraint,
                )
                for group, kinds in GROUPS.items()
            ),
            models.CheckConstraint(
                condition=Q(state__in=_values(OperationState)), name="operation_state_known"
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
        return target(self.model, self.place, self.device)

    @property
    def place(self) -> str:
        """The node on which it happens; until one is chosen, the one that was asked for."""
        return str(self.node or self.wanted_node)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE
