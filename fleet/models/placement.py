from __future__ import annotations

from datetime import datetime

from django.db import models
from django.utils import timezone

from fleet.models.node import Node


class IllegalTransitionError(Exception):
    """A placement cannot reach the asked state from the state it is in."""


class Placement(models.Model):
    """A model on a node.

    Operations move it along `TRANSITIONS`; a poll writes the state that the node reports, which may have
    skipped some. Rows of unloaded models stay, with the memory that they took and their last use.
    """

    class State(models.TextChoices):
        LOADING = "loading"
        LOADED = "loaded"
        UNLOADING = "unloading"
        ASLEEP = "asleep", "Asleep"  # in the host's memory
        UNLOADED = "unloaded"
        FAILED = "failed"

    RESIDENT = (State.LOADING, State.LOADED, State.UNLOADING)  # in these it takes memory, or is about to
    TRANSITIONS = {
        State.UNLOADED: frozenset({State.LOADING}),
        State.LOADING: frozenset({State.LOADED, State.FAILED, State.UNLOADED}),
        State.LOADED: frozenset({State.UNLOADING, State.FAILED}),
        State.UNLOADING: frozenset({State.UNLOADED, State.ASLEEP, State.LOADED, State.FAILED}),
        State.ASLEEP: frozenset({State.LOADING, State.UNLOADING, State.UNLOADED}),
        State.FAILED: frozenset({State.LOADING, State.UNLOADING, State.UNLOADED}),
    }

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="placements")
    model = models.CharField(max_length=200, db_index=True)
    source = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.UNLOADED)
    devices = models.JSONField(default=list, help_text="Their indices")
    memory_mb = models.PositiveIntegerField("memory, MiB", null=True)
    memory_parts = models.JSONField(default=dict, help_text="MiB of it, by what it is for")
    device_memory_mb = models.JSONField(default=list, help_text="On each of them; empty: evenly shared")
    format = models.CharField(max_length=50, blank=True, help_text="That most of its weights are stored in")
    bits_per_weight = models.FloatField(null=True, help_text="On average, scales included")
    host_mb = models.PositiveIntegerField("host memory, MiB", null=True, help_text="While it is asleep")
    load_s = models.FloatField(null=True, help_text="Measured: its last load from disk")
    wake_s = models.FloatField(null=True, help_text="Measured: the last time that it was woken")
    context = models.PositiveIntegerField(null=True)
    capabilities = models.JSONField(default=list)
    text = models.JSONField(default=dict, help_text="What its chat template takes")
    progress = models.FloatField(null=True)
    error_code = models.CharField(max_length=100, blank=True)
    error_message = models.TextField(blank=True)
    running = models.PositiveIntegerField(default=0)
    waiting = models.PositiveIntegerField(default=0)
    changed_at = models.DateTimeField(default=timezone.now, help_text="When it entered its state")
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["model", "node__name"]
        constraints = [
            models.UniqueConstraint(fields=["node", "model"], name="placement_once_per_node"),
            models.CheckConstraint(
                condition=models.Q(
                    state__in=["loading", "loaded", "unloading", "asleep", "unloaded", "failed"]
                ),
                name="placement_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} on {self.node}"

    @property
    def weights(self) -> str:
        """How its weights are stored: `q4_k 4.83`, with the bits of each."""
        bits = f" {self.bits_per_weight:.2f}".rstrip("0").rstrip(".") if self.bits_per_weight else ""
        return f"{self.format}{bits}"

    @property
    def memory_by_device(self) -> dict[int, int]:
        """MiB on each device: as measured, else the whole evenly shared."""
        devices = self.devices or [0]
        each = self.device_memory_mb
        if len(each) == len(devices) and any(each):
            return dict(zip(devices, each, strict=True))
        return dict.fromkeys(devices, (self.memory_mb or 0) // len(devices))

    @property
    def is_busy(self) -> bool:
        return bool(self.running + self.waiting)

    @property
    def arrival_s(self) -> float | None:
        """How long it takes to be loaded, or to be woken if it is in host memory; None while nobody knows."""
        arrival: float | None = self.wake_s if self.host_mb is not None and self.wake_s else self.load_s
        return arrival

    @property
    def used_at(self) -> datetime:
        """When it was last used, or entered its state if that was later."""
        arrived: datetime = self.changed_at
        return max(arrived, self.last_used_at or arrived)

    def move(self, state: str) -> None:
        """Set the state in one statement that also checks it: of two that move a placement, one fails.

        Raises `IllegalTransitionError` unless `state` can be reached from the row's state.
        """
        sources = [source for source, targets in self.TRANSITIONS.items() if state in targets]
        now = timezone.now()
        row = Placement.objects.filter(pk=self.pk, state__in=sources)
        if not row.update(state=state, changed_at=now, progress=None):
            raise IllegalTransitionError(f"{self}: cannot become {state}")
        self.state = state
        self.changed_at = now
        self.progress = None

    def forget(self, *, asleep: bool = False) -> None:
        """Set it to unloaded from any state, or to asleep: no device of the node has the model any more."""
        state = self.State.ASLEEP if asleep else self.State.UNLOADED
        Placement.objects.filter(pk=self.pk).update(
            state=state, changed_at=timezone.now(), progress=None, running=0, waiting=0
        )

    forget.alters_data = True  # type: ignore[attr-defined]
    move.alters_data = True  # type: ignore[attr-defined]
