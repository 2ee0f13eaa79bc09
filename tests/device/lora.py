"""LoRA adapters with random weights, as PEFT saves them, and models into which they are merged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ATTENTION = r".*self_attn\.(q_proj|k_proj|v_proj|o_proj)"
MLP = r".*mlp\.(gate_proj|up_proj|down_proj)"
ALL = f"{ATTENTION}|{MLP}"


def targets(model: Any, pattern: str = ALL) -> dict[str, torch.nn.Linear]:
    """The linear modules of a model whose names match."""
    linears = ((n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    return {name: module for name, module in linears if re.fullmatch(pattern, name)}


def save_adapter(
    path: Path,
    model: Any,
    seed: int = 0,
    *,
    rank: int = 4,
    pattern: str = ALL,
    tensors: Mapping[str, Tensor] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter for a model to a new directory and return it; `tensors` replace some of its own."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, module in targets(model, pattern).items():
        for part, size in (("A", (rank, module.in_features)), ("B", (module.out_features, rank))):
            key = f"base_model.model.{name}.lora_{part}.weight"
            found[key] = 0.3 * torch.randn(size, generator=generator)
    path.mkdir()
    save_file(found | dict(tensors or {}), path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "use_rslora": False}
    (path / "adapter_config.json").write_text(json.dumps(settings | config))
    return path


def merge(model: Any, path: Path, scale: float) -> Any:
    """Add scale * B A to the weights of a model, by the formula of Hu et al. 2021, and return it."""

    tensors = load_file(path / "adapter_model.safetensors")
    for name, module in targets(model, ".*").items():
        key = f"base_model.model.{name}.lora_"
        if f"{key}A.weight" in tensors:
            with torch.no_grad():
                module.weight += scale * tensors[f"{key}B.weight"] @ tensors[f"{key}A.weight"]
    return model
