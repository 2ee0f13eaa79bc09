"""Mixtures of experts: Qwen3-MoE's shape, beside a dense model that is as large as what is active of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.budget import Budget
from bench.engine import measures
from bench.engine.extent import FULL, QUICK, SMOKE
from bench.engine.models import LEAST, SMALL, Sides, both, random_weights
from bench.engine.serving import alternate, prompt, serve

FIGURES = ("total_16_over_generate_batch", "total_16_over_dense")
# 8 of 64 experts: 170 million parameters, 44 million of them active.
DENSE = SMALL | {"num_hidden_layers": 8}
EXPERTS = {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": True}


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    dense = run.pick(DENSE, DENSE, LEAST | {"intermediate_size": 128})  # each expert a multiple of eight
    experts = EXPERTS | {
        "moe_intermediate_size": dense["intermediate_size"] // EXPERTS["num_experts_per_tok"]
    }
    new, repeats, *_ = extent = run.pick(FULL, QUICK, SMOKE)
    path = random_weights(folder / "moe", dense | experts, torch.bfloat16, family="Qwen3Moe")
    sides = both(path, torch.bfloat16, run.options.device)
    other = both(random_weights(folder / "dense", dense, torch.bfloat16), torch.bfloat16, run.options.device)
    over_dense = _total_over(budget.share(0.3), sides, other, new, repeats)
    one = measures.over_generate(budget.share(0.2), sides, 1, new, repeats)
    over_batch = measures.over_generate_batch(budget, sides, new, repeats, blocks=extent.blocks)
    return {
        "total_16_over_generate_batch": over_batch,
        "total_16_over_dense": over_dense,
        "decode_1_over_generate": one["ratio"],
    }


def _total_over(budget: Budget, sides: Sides, other: Sides, new: int, repeats: int) -> float:
    """Tokens a second of 16 requests, over those of another model."""
    prompts = [prompt(seed, measures.PROMPT_TOKENS) for seed in range(measures.BATCH)]

    def tell(side: Sides) -> None:
        serve(measures.engine_of(side), prompts, new)

    ways = [partial(tell, side) for side in (sides, other)]
    ours_s, theirs_s = alternate(budget, "the dense model", repeats, *ways)
    return theirs_s / ours_s
