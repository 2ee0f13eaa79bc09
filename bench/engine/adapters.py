"""Requests with adapters beside each other, over as many of the model itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench import command
from bench.budget import Budget
from bench.engine.measures import BATCH, PROMPT_TOKENS
from bench.engine.models import LEAST, SMALL, decoder_of, random_model, runner_of
from bench.engine.serving import Engine, alternate, prompt, timed
from neuron.engine.request import LoadedAdapter
from neuron.models.adapters.lora_file import read_adapter

FIGURES = ("lora_16_over_base", "lora_load_ms")
ADAPTERS = 8
RANK = 8  # PEFT's own choice, as the modules are
MODULES = ("q_proj", "v_proj")


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape = run.pick(SMALL, SMALL, LEAST)
    new, repeats = run.pick((64, 6), (32, 4), (2, 1))
    model = random_model(shape, torch.bfloat16)
    model.save_pretrained(folder / "model")
    for number in range(ADAPTERS):
        save_adapter(folder / str(number), model, number)
    decoder = decoder_of(folder / "model", run.options.device, torch.bfloat16)
    bank = decoder.adapters
    assert bank
    runner = runner_of(decoder)
    load_s = [
        timed(lambda number=number: bank.add(read_adapter(folder / str(number)), number))
        for number in range(ADAPTERS)
    ]

    def serve(adapters: list[LoadedAdapter | None]) -> None:
        engine = Engine(runner, vocab_size=decoder.vocab_size)
        for seed, adapter in enumerate(adapters):
            engine.submit(prompt(seed, PROMPT_TOKENS), new, adapter=adapter)
        engine.drain()

    known = [LoadedAdapter(number, bytes([number])) for number in range(ADAPTERS)]
    mixed: list[LoadedAdapter | None] = [known[index % ADAPTERS] for index in range(BATCH)]
    ways = partial(serve, mixed), partial(serve, [None] * BATCH)
    adapted_s, plain_s = alternate(budget, "16 requests with adapters", repeats, *ways)
    return {"lora_16_over_base": plain_s / adapted_s, "lora_load_ms": 1e3 * min(load_s)}


def save_adapter(path: Path, model: Any, seed: int) -> None:
    """Write an adapter for all linear layers of a model, as PEFT would."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(MODULES):
            key = f"base_model.model.{name}.lora_"
            tensors[f"{key}A.weight"] = torch.randn(RANK, module.in_features, generator=generator).bfloat16()
            tensors[f"{key}B.weight"] = torch.randn(module.out_features, RANK, generator=generator).bfloat16()
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK / 100}
    (path / "adapter_config.json").write_text(json.dumps(config))
