"""Which parts of a model are split: as the plan says that transformers' class declares, or one of ours.

Of a plan are used `colwise` and `rowwise`, which split a pair of linear layers, and the styles of experts.
Modules that a plan gathers after each layer, or does not name, are computed whole on every rank: attention
whose norms span all heads. Layers with states are in `recurrence`. What has a style besides these is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import ModelLoadError

_ROWS, _COLUMNS, _EXPERTS = "colwise", "rowwise", "moe_tp_experts"
_WHOLE = {
    "colwise_gather_output",
    "rowwise_split_input",
    "replicated_with_grad_allreduce",
    "replicate",
    "mla_kv_a_proj",
    "local_params",  # of heads, and cut with them
    "embedding_rowwise",
    "embedding_colwise",
}
_KNOWN = {_ROWS, _COLUMNS, _EXPERTS, "packed_colwise", "packed_rowwise"} | _WHOLE
_ATTENTION = {
    **dict.fromkeys((f"self_attn.{name}_proj" for name in ("q", "k", "v")), _ROWS),
    "self_attn.o_proj": _COLUMNS,
}
_LATENT = {"self_attn.q_b_proj": _ROWS, "self_attn.kv_b_proj": _ROWS, "self_attn.o_proj": _COLUMNS}
_SPARSE = {"mlp.experts": _EXPERTS}
_DENSE = {"mlp.down_proj": _COLUMNS}
_FUSED = {"self_attn.qkv_proj": _ROWS, "self_attn.o_proj": _COLUMNS}
_LFM2 = {"self_attn.q_proj": _ROWS, "self_attn.out_proj": _COLUMNS, "feed_forward.w2": _COLUMNS}
# Plans for classes that declare none, or one that leaves more whole than must be.
_OWN: dict[str, Mapping[str, str]] = {
    "bamba": _ATTENTION | {"feed_forward.down_proj": _COLUMNS},
    "deepseek_v3": _LATENT | _SPARSE | _DENSE,
    "falcon_h1": _ATTENTION | {"feed_forward.down_proj": _COLUMNS},
    "glm": _ATTENTION | _DENSE,
    "glm4": _ATTENTION | _DENSE,
    "gpt_oss": _ATTENTION | _SPARSE,
    "granitemoehybrid": _ATTENTION | {"block_sparse_moe.experts": _EXPERTS},
    "hunyuan_v1_dense": _ATTENTION | _DENSE,
    "lfm2": _LFM2,
    "lfm2_moe": _LFM2 | {"feed_forward.experts": _EXPERTS},
    "lfm3": _ATTENTION | {"feed_forward.w2": _COLUMNS},
    "mistral4": _LATENT | _SPARSE | _DENSE,
    "nemotron_h": {
        "mixer.q_proj": _ROWS,
        "mixer.o_proj": _COLUMNS,
        "mixer.down_proj": _COLUMNS,
        "mixer.experts": _EXPERTS,
    },
    "phi3": _FUSED | _DENSE,
    "qwen4_exp_text": _ATTENTION | _SPARSE,
    "youtu": _LATENT | _DENSE,
}

_RECURRENT = {"falcon_mamba", "mamba", "mamba2"}  # which have nothing but layers with states

_HEADS = re.compile(r"(^|\.)(self_attn|mixer)\.(q_proj|q_b_proj|qkv_proj)$")
_ATTENTION_OUT = re.compile(r"(^|\.)(self_attn|mixer)\.(o_proj|out_proj|dense)$")
_MLP_OUT = re.compile(r"\.(down_proj|w2|fc2|c_proj)$")


@dataclass(frozen=True, slots=True)
class SplitParts:
    """What is split, of every layer that has it."""

    attention: bool  # by heads
    mlp: bool  # by width
    experts: bool  # the same of each expert, and of an MLP beside them


def find_parts(text_config: Any, file: Path) -> SplitParts:
    """Return what is split of a model. Raises ModelLoadError where nothing is, or nobody says how."""
    kind = text_config.model_type
    if kind in _RECURRENT:
        return SplitParts(attention=False, mlp=False, experts=False)
    plan = _OWN.get(kind) or getattr(text_config, "base_model_tp_plan", None)
    if not plan:
        raise _refused(file, f"transformers' class of {kind} declares no plan for tensor parallelism")
    if others := sorted(f"{name}: {style}" for name, style in plan.items() if style not in _KNOWN):
        raise _refused(file, f"the plan that {kind} declares splits as is not done here ({others[0]})")
    rows = [name for name, style in plan.items() if style == _ROWS]
    columns = [name for name, style in plan.items() if style == _COLUMNS and ".experts." not in name]
    parts = SplitParts(
        attention=any(map(_HEADS.search, rows)) and any(map(_ATTENTION_OUT.search, columns)),
        mlp=any(_MLP_OUT.search(name) for name in columns if "self_attn" not in name),
        experts=_EXPERTS in plan.values(),
    )
    if not (parts.attention or parts.mlp or parts.experts):
        raise _refused(file, f"the plan that {kind} declares leaves every layer whole")
    return parts


def _refused(file: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{file}: {cause}; load it without tensor_parallel")
