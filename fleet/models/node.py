from __future__ import annotations

from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models

from fleet.models.version import Configured


def name_table(value: object) -> None:
    pairs = [text for pair in value.items() for text in pair] if isinstance(value, dict) else [None]
    if not all(isinstance(text, str) and text for text in pairs):
        raise ValidationError('Expected a table of names, such as {"ours": "its own"}.')


def names(value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValidationError('Expected a list of names, such as ["a100", "nvlink"].')


class Node(Configured):
    """A neuron or another server: its configuration, and below it what the last poll observed."""

    class Kind(models.TextChoices):
        NEURON = "neuron", "neuron"
        OPENAI = "openai", "OpenAI-compatible server"

    name = models.CharField(
        max_length=100, unique=True, validators=[RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
    )
    kind = models.CharField(
        max_length=10,
        choices=Kind.choices,
        default=Kind.NEURON,
        help_text="Nothing is loaded or unloaded on a server that is no neuron (vLLM, Ollama, a cloud …).",
    )
    endpoint = models.CharField(
        max_length=300,
        help_text="http://host:13131 for a neuron; the base URL of another server, with or without /v1.",
        validators=[
            RegexValidator(r"^https?://[^/\s@?#]+(/[^\s@?#]*)?\Z", "A URL such as http://host:13131.")
        ],
    )
    token = models.CharField(
        max_length=300,
        blank=True,
        validators=[RegexValidator(r"^[!-~]+\Z", "A secret has visible ASCII characters only.")],
        help_text="The secret of the neuron's API, or the key of the server's.",
    )
    model_names = models.JSONField(
        default=dict,
        blank=True,
        validators=[name_table],
        help_text='The models of a server that are used, {"our name": "its name"}; empty: all that it lists.',
    )
    labels = models.JSONField(
        default=list,
        blank=True,
        validators=[names],
        help_text='Models may require a node that has these: ["a100", "nvlink"].',
    )
    max_requests = models.PositiveIntegerField(
        "requests at once",
        null=True,
        blank=True,
        help_text="From one gateway; others wait.",
    )
    first_byte_timeout_s = models.FloatField(
        "time to answer, s", null=True, blank=True, validators=[MinValueValidator(0.001)]
    )
    idle_timeout_s = models.FloatField(
        "longest silence, s", null=True, blank=True, validators=[MinValueValidator(0.001)]
    )

    cordoned = models.BooleanField(
        default=False, editable=False, help_text="Nothing new is loaded on it; its models stay."
    )
    joined = models.BooleanField(
        default=False,
        editable=False,
        help_text="It registered itself; it is removed when heartbeats stop.",
    )
    heartbeat_at = models.DateTimeField(null=True, editable=False)
    healthy = models.BooleanField(default=False, editable=False)
    status = models.CharField(max_length=10, blank=True, editable=False, help_text="ok, degraded or failed")
    reason = models.TextField(blank=True, default="not reached yet", editable=False)
    warnings = models.JSONField(
        default=list, editable=False, help_text="Implausible values that it reports, which are not used"
    )
    misses = models.PositiveIntegerField(default=0, editable=False, help_text="Polls in a row that failed")
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

    @property
    def is_foreign(self) -> bool:
        """Whether it is no neuron: nothing can be loaded there."""
        return bool(self.kind != self.Kind.NEURON)

    def clean(self) -> None:
        self.endpoint = self.endpoint.rstrip("/")
        if not self.is_foreign and urlsplit(self.endpoint).path:
            raise ValidationError({"endpoint": "A neuron has no path: http://host:13131."})
        if not self.is_foreign and self.model_names:
            raise ValidationError({"model_names": "A neuron says itself which models it has."})


class Device(models.Model):
    """A GPU, or the CPU of a host without one, as observed by the last poll. Memory in MiB."""

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
    fragmented_mb = models.PositiveIntegerField(
        default=0, help_text="Free, in pieces that are too small for a large model"
    )
    cycles = models.PositiveIntegerField(default=0, help_text="Loads and unloads since the worker started")
    restarts = models.PositiveIntegerField(default=0)
    # at most one operation: that is what keeps two from one device
    claimed_by = models.ForeignKey(
        "fleet.Operation", null=True, on_delete=models.SET_NULL, related_name="devices"
    )

    class Meta:
        ordering = ["node__name", "index"]
        constraints = [models.UniqueConstraint(fields=["node", "index"], name="device_once_per_node")]

    def __str__(self) -> str:
        return f"{self.node} {self.kind}:{self.index}"

    @property
    def usable_mb(self) -> int:
        """Its memory as far as the neuron may use it: less than all of it with `memory_mb` in neuron.toml."""
        told = int(self.memory_used_mb + self.memory_free_mb)
        return min(told, int(self.memory_total_mb)) or int(self.memory_total_mb)
