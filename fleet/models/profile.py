from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from cortex_site.base.answer_formats import known_reasoning_format, known_tool_format
from cortex_site.base.kv_dtype import KV_DTYPES
from cortex_site.config.models_toml import DEFAULT_PRIORITY, PINNED_PRIORITY
from fleet.models.node import names
from fleet.models.version import Configured


def tool_format(name: str) -> None:
    _known(known_tool_format, name)


def reasoning_format(name: str) -> None:
    _known(known_reasoning_format, name)


def options(value: object) -> None:
    kinds = str | int | float
    if not isinstance(value, dict) or not all(isinstance(one, kinds) for one in value.values()):
        raise ValidationError('Expected a table of texts and numbers, such as {"max-model-len": 8192}.')


def _known(check: Callable[[str], str], name: str) -> None:
    try:
        check(name)
    except ValueError as error:
        raise ValidationError(f"The name {error}.") from error


_MEASURED_FOR = ("source", "quant", "harness", "kv_dtype", "speculation", "options", "tensor_parallel")


class ModelProfile(Configured):
    """A model of the catalogue: its source, its needs and the operator's wishes."""

    model_id = models.CharField("model", max_length=200, unique=True)
    source = models.CharField(
        max_length=500, blank=True, help_text="A directory or hub id; empty: the model's name."
    )
    harness = models.CharField(max_length=50, default="torch")
    base = models.CharField(
        "adapter for",
        max_length=200,
        blank=True,
        help_text="The model that its source, a LoRA adapter, is for; its own name is then BASE:NAME.",
    )
    quant = models.CharField(
        max_length=200,
        blank=True,
        help_text="How its weights are quantized while they are loaded (q8_0, q4_k, int4, fp8), or which "
        "GGUF file of its source it is; empty or none: as they are stored.",
    )
    kv_dtype = models.CharField(
        "cached keys and values",
        max_length=10,
        blank=True,
        choices=[(name, name) for name in KV_DTYPES],
        help_text="What they are stored as; empty: as the node is configured.",
    )
    speculation = models.CharField(
        "speculation",
        max_length=200,
        blank=True,
        help_text="What drafts its answers: auto, mtp, ngram, off, or a smaller model of the same "
        "vocabulary, by hub id or a directory of the node; empty: as the node is configured.",
    )
    chat_template = models.TextField(
        blank=True,
        help_text="A template, or the path of one on the node and in the model's directory; empty: its own.",
    )
    tool_format = models.CharField(
        "notation of calls",
        max_length=50,
        blank=True,
        validators=[tool_format],
        help_text="Empty: found by probing the chat template.",
    )
    reasoning_format = models.CharField(
        "opening marker of thoughts",
        max_length=50,
        blank=True,
        validators=[reasoning_format],
        help_text="Empty: found by probing the chat template.",
    )
    options = models.JSONField(
        default=dict,
        blank=True,
        validators=[options],
        help_text='Of a managed engine: options of its command line, {"max-model-len": 8192}.',
    )
    vram_mb = models.PositiveIntegerField(
        "memory, MiB", null=True, blank=True, help_text="On all of its devices together."
    )
    measured_mb = models.PositiveIntegerField(
        "measured memory, MiB", null=True, editable=False, help_text="Weights and caches after its last load."
    )
    needed_mb = models.PositiveIntegerField(
        "measured need, MiB",
        null=True,
        editable=False,
        help_text="The free memory that a load needs; known, and used, after the first one.",
    )
    tensor_parallel = models.PositiveIntegerField(
        "devices that it is split over",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of one node; empty: as few as have the memory for it.",
    )
    min_devices = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    min_device_vram_mb = models.PositiveIntegerField("least memory per device, MiB", null=True, blank=True)
    labels = models.JSONField(
        default=list,
        blank=True,
        validators=[names],
        help_text='It runs only on nodes that have all of these labels: ["a100"].',
    )
    pinned_on = models.JSONField(
        default=list,
        blank=True,
        validators=[names],
        help_text='The only nodes it runs on; it is kept loaded there and never evicted: ["beast"].',
    )
    pinned = models.BooleanField(default=False, help_text="Never evicted, wherever it is loaded.")
    residency_priority = models.IntegerField(
        null=True, blank=True, help_text="It may evict models of this priority or a lower one."
    )
    ttl_s = models.PositiveIntegerField("idle limit, s", null=True, blank=True)
    min_residency_s = models.PositiveIntegerField("least residency, s", default=0)
    replicas = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    context = models.PositiveIntegerField("context, tokens", null=True, blank=True)
    output = models.PositiveIntegerField("longest answer, tokens", null=True, blank=True)
    cost_input = models.FloatField("USD per million tokens in", null=True, blank=True)
    cost_output = models.FloatField("USD per million tokens out", null=True, blank=True)
    cost_cache_read = models.FloatField("USD per million cached tokens", null=True, blank=True)
    capabilities = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ["model_id"]
        verbose_name = "model"
        constraints = [
            models.CheckConstraint(condition=models.Q(min_devices__gte=1), name="profile_has_a_device"),
            models.CheckConstraint(condition=models.Q(replicas__gte=1), name="profile_has_a_replica"),
        ]

    def __str__(self) -> str:
        return str(self.model_id)

    def clean(self) -> None:
        """Raises `ValidationError` for an adapter that is not named after its model."""
        if self.base and not self.model_id.startswith(f"{self.base}:"):
            raise ValidationError({"base": f"An adapter for {self.base} is named {self.base}:NAME."})

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Forget what was measured when what is loaded changes, or over how many devices."""
        stored = {name: getattr(self, name) for name in _MEASURED_FOR}
        if self.pk and not ModelProfile.objects.filter(pk=self.pk, **stored).exists():
            self.measured_mb = self.needed_mb = None
        super().save(*args, **kwargs)

    @property
    def priority(self) -> int:
        if self.residency_priority is not None:
            return int(self.residency_priority)
        if self.pinned_on:
            return PINNED_PRIORITY
        return DEFAULT_PRIORITY

    @property
    def resident_mb(self) -> int:
        """The memory that it takes where it is loaded, MiB: more than it needs, for caches fill free room."""
        return int(self.measured_mb or self.vram_mb or 0)


class Alias(Configured):
    """Another name of a model. It is followed once: an alias of an alias leads nowhere."""

    name = models.CharField(max_length=200, unique=True)
    target = models.CharField(max_length=200, help_text="A model's name.")

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{self.name} → {self.target}"
