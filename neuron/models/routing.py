"""What a configuration says of routing to experts, checked before anything is built by it.

How many experts there are, the shapes of weights tell. How many of them a token goes through, they do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuron.models.checkpoint import model_broken

_EXPERTS = ("n_routed_experts", "moe_num_experts", "num_local_experts", "num_experts")


def check_routing(file: Path, text_config: Any) -> None:
    """Raise ModelLoadError, which names file and key, if tokens cannot be routed as a configuration says."""
    named = ((key, getattr(text_config, key, None)) for key in _EXPERTS)
    counts = ((key, count) for key, count in named if isinstance(count, int) and count > 0)
    key, experts = next(counts, ("", 0))
    if not experts:
        return
    groups = getattr(text_config, "n_group", None)
    _check_choice(file, text_config, "num_experts_per_tok", experts, f"{key} is {experts}")
    if not isinstance(groups, int):
        return
    if groups < 1 or experts % groups:
        raise model_broken(file, f"n_group is {groups}, which does not divide {key}, {experts}; correct it")
    _check_choice(file, text_config, "topk_group", groups, f"n_group is {groups}")


def _check_choice(file: Path, text_config: Any, key: str, most: int, because: str) -> None:
    chosen = getattr(text_config, key, None)
    if isinstance(chosen, int) and not 1 <= chosen <= most:
        raise model_broken(file, f"{key} is {chosen}, but must be from 1 to {most}, as {because}; correct it")
