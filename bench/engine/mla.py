"""Multi-head latent attention: dense layers of DeepSeek V3's shape, with latents cached and with heads."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.budget import Budget
from bench.engine.extent import FULL, QUICK, SMOKE
from bench.engine.models import LEAST, SMALL, random_weights, runner_of
from bench.engine.serving import Engine, prompt, timed
from neuron.device.kv_cache import bytes_per_token
from neuron.models.decoder import load_decoder
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions

FIGURES = ("bytes_per_token", "prefill_over_heads", "decode_1_over_heads", "decode_16_over_heads")
RANK, ROTATED, LAYERS = 256, 32, 4  # few layers: with heads cached, they take their time
LATENT = {
    "num_hidden_layers": LAYERS,
    "first_k_dense_replace": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": ROTATED,
    "q_lora_rank": 192,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": ROTATED,
    "v_head_dim": 64,
}
CONTEXT = 1000


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape = run.pick(SMALL, SMALL, LEAST) | LATENT
    path = random_weights(folder / "model", shape, torch.bfloat16, family="DeepseekV3")
    options = LoadOptions(torch.bfloat16, run.options.device, on_progress=lambda _: None)
    latents = load_decoder(read_checkpoint(path), options)
    heads = load_decoder(read_checkpoint(path), options, fused=False, latents=False)
    engines = [Engine(runner_of(decoder), vocab_size=decoder.vocab_size) for decoder in (latents, heads)]
    steps = run.pick(FULL, QUICK, SMOKE).steps // 2
    seconds = {"prefill": [timed(lambda engine=engine: _join(engine, 1, 3 * steps)) for engine in engines]}
    for count in (1, 16):
        for engine in engines:
            _join(engine, count - 1, 2 * steps)
        rounds = budget.share(0.3).rounds(steps, f"steps of {count}")
        turns = [[timed(engine.step) for engine in engines] for _ in rounds]
        seconds[f"step of {count}"] = list(map(statistics.median, zip(*turns, strict=True)))
    least = (RANK + ROTATED) * LAYERS * latents.dtype.itemsize
    ratios = [bytes_per_token(latents.layers, latents.dtype) / least]
    ratios += [theirs / ours for ours, theirs in seconds.values()]
    return dict(zip(FIGURES, ratios, strict=True)) | {"seconds": seconds}


def _join(engine: Engine, count: int, new: int) -> None:
    """Add requests with the prompt of all others, so that the prefix cache reads it once, and begin them."""
    numbers = [engine.submit(prompt(0, CONTEXT), new) for _ in range(count)]
    while not all(engine.token_times[number] for number in numbers):
        engine.step()
