"""Layers that keep states beside some that attend: Qwen3.5's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.budget import Budget
from bench.engine import measures
from bench.engine.extent import FULL, QUICK, SMOKE
from bench.engine.models import LEAST, SMALL, both, random_weights

FIGURES = ("decode_1_over_generate", "total_16_over_static", "ttft_turn2_over_turn1")
# Three layers of the gated delta rule to one that attends: 40 million parameters in all.
DELTA = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "tie_word_embeddings": True,
}


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape = run.pick(SMALL, SMALL, LEAST | {"num_hidden_layers": 4}) | DELTA
    path = random_weights(folder / "model", shape, torch.bfloat16, family="Qwen3_5Text")
    sides = both(path, torch.bfloat16, run.options.device)
    new, repeats, rounds, prefix = run.pick(FULL, QUICK, SMOKE)[:4]
    one = measures.over_generate(budget.share(0.3), sides, 1, new, repeats)
    sixteen = measures.over_generate(budget.share(0.4), sides, measures.BATCH, new, repeats)
    ttft = measures.ttft_turn2_over_turn1(budget.share(0.3), sides, prefix, new, rounds)
    return {
        "decode_1_over_generate": one["ratio"],
        "total_16_over_static": sixteen["ratio"],
        "ttft_turn2_over_turn1": ttft,
        "tokens_per_s": {"one": one, "sixteen": sixteen},
    }
