"""What a neuron is told of a model: to load it, or to read its files before that."""

from __future__ import annotations

from typing import Any

from cortex_site.config.models_toml import TORCH
from fleet.models import ModelProfile, Node, Placement
from fleet.placement import NodeVerdict
from fleet.services.neuron_client import NeuronClient
from neuron.wire import ModelSpec


def read_ahead(model: str, verdict: NodeVerdict) -> None:
    """Have the files of a model read on the node that it is likely to be loaded on."""
    node: Node | None = Node.objects.filter(name=verdict.node, healthy=True).first()
    if node is not None:
        with NeuronClient(node) as client:
            client.read_ahead(spec_of(Placement(model=model, devices=list(verdict.devices))))


def spec_of(row: Placement) -> ModelSpec:
    """What a neuron is asked to load for a placement."""
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=row.model).first()
    where: dict[str, Any] = {"devices": row.devices or None, "tensor_parallel": len(row.devices) or None}
    if profile is None:
        return ModelSpec(model_id=row.model, source=row.source or None, **where)
    return ModelSpec(
        model_id=row.model,
        source=profile.source or None,
        harness=profile.harness,
        quant=profile.quant or None,
        kv_dtype=profile.kv_dtype or None,
        speculation=profile.speculation or None,
        chat_template=profile.chat_template or None,
        tool_format=profile.tool_format or None,
        reasoning_format=profile.reasoning_format or None,
        **where,
        **_of_engine(profile, len(row.devices) or 1),
    )


def _of_engine(profile: ModelProfile, devices: int) -> dict[str, Any]:
    """What a managed engine is told besides: it takes what it may, where torch takes what it needs."""
    if profile.harness == TORCH:
        return {}
    return {"options": profile.options, "memory_mb": profile.vram_mb and profile.vram_mb // devices}
