from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

from fleet.models.version import Configured


class Node(Configured):
    """One neuron: what the operator configured, and below it what the last poll observed."""

    name = models.CharField(
        max_length=100, unique=True, validators=[RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
    )
    endpoint = models.CharField(
        max_length=300,
        help_text="http://host:13131",
        validators=[
            RegexValidator(r"^https?://[^/\s]+\Z", "A URL such as http://host:13131, without a path.")
        ],
    )
    token = models.CharField(max_length=300, blank=True, help_text="The shared secret of that neuron's API.")

    healthy = models.BooleanField(default=False, editable=False)
    status = models.CharField(max_length=10, blank=True, editable=False, help_text="ok, degraded or failed")
    reason = models.TextField(blank=True, default="not reached yet", editable=False)
    misses = models.PositiveIntegerField(default=0, editable=False, help_text="Polls without an answer")
    last_seen_at = models.DateTimeField(null=True, editable=False)
    protocol = models.PositiveIntegerField(default=0, editable=False)
    version = models.CharField(max_length=100, blank=True, editable=False)
    hostname = models.CharField(max_length=255, blank=True, editable=False)
    os = models.CharField(max_length=255, blank=True, editable=False)
    cuda_version = models.CharField(max_length=50, blank=True, editable=False)
    driver_version = models.CharField(max_length=50, blank=True, editable=False)
    harnesses = models.JSONField(default=list, editable=False)
    pid = models.PositiveIntegerField(null=True, editable=False)
    rss_mb = models.PositiveIntegerField(null=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return str(self.name)


class Device(models.Model):
    """A GPU, or the CPU of a host without one, as last observed. Memory in MiB."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="devices")
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=10)
    compute_capability = models.CharField(max_length=20, blank=True)
    memory_total_mb = models.PositiveIntegerField(default=0)
    memory_used_mb = models.PositiveIntegerField(default=0)
    memory_free_mb = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=20, default="starting")
    reason = models.TextField(blank=True)
    worker = models.CharField(max_length=50, blank=True)
    pid = models.PositiveIntegerField(null=True)
    rss_mb = models.PositiveIntegerField(null=True)
    utilization_pct = models.PositiveIntegerField(null=True)
    temperature_c = models.IntegerField(null=True)
    cycles = models.PositiveIntegerField(default=0, help_text="Loads and unloads since the worker started")
    restarts = models.PositiveIntegerField(default=0)
    # One column holds one value: a device belongs to at most one running operation.
    claimed_by = models.ForeignKey(
        "fleet.Operation", null=True, on_delete=models.SET_NULL, related_name="devices"
    )

    class Meta:
        ordering = ["node__name", "index"]
        constraints = [models.UniqueConstraint(fields=["node", "index"], name="device_once_per_node")]

    def __str__(self) -> str:
        return f"{self.node} {self.kind}:{self.index}"
