"""Answers of a model that keeps states and has a multi-token head whose guesses are all wrong."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench import command
from bench.budget import Budget
from bench.engine.hybrid import DELTA
from bench.engine.models import LEAST, SMALL, random_weights, runner_of
from bench.engine.serving import Engine, prompt
from neuron.device.head_runner import HeadRunner
from neuron.engine.drafter import MOST_DRAFT_TOKENS, draft_source
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.multi_token import HeadWish, choose_head
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions

FIGURES = ("head_decode_misled_over_plain",)


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape = run.pick(SMALL, SMALL, LEAST | {"num_hidden_layers": 4}) | DELTA
    new, turns = run.pick((300, 9), (300, 3), (4, 1))
    path = saved_with_head(folder / "model", shape)
    plain, headed = (loaded(path, wish, run.options.device) for wish in (None, "mtp"))
    engines = (
        Engine(runner_of(plain), vocab_size=plain.vocab_size, has_states=True),
        headed_engine(headed),
    )
    ratios = [cpu_ratio(engines, turn, new) for turn in budget.rounds(1 + turns, "answers with a head")]
    counted = ratios[1:] or ratios
    return {"head_decode_misled_over_plain": statistics.median(counted), "ratios": counted}


def saved_with_head(path: Path, shape: dict[str, Any]) -> Path:
    """Save a model with random weights, and a head of as random ones: one layer more than the model has."""
    count = shape["num_hidden_layers"]
    kinds = ["full_attention" if at % 4 == 3 else "linear_attention" for at in range(count)]
    longer = {"num_hidden_layers": count + 1, "layer_types": [*kinds, "full_attention"]}
    random_weights(path, shape | longer, torch.bfloat16, family="Qwen3_5Text")
    file, hidden = path / "model.safetensors", shape["hidden_size"]
    last = f"model.layers.{count}."
    tensors = {name.replace(last, "mtp.layers.0."): tensor for name, tensor in load_file(file).items()}
    norms = ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")
    tensors |= {f"mtp.{name}.weight": torch.zeros(hidden, dtype=torch.bfloat16) for name in norms}
    tensors["mtp.fc.weight"] = torch.randn(hidden, 2 * hidden).to(torch.bfloat16) / hidden**0.5
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": count, "layer_types": kinds}))
    return path


def loaded(path: Path, wish: HeadWish, device: torch.device) -> AnyDecoder:
    options = LoadOptions(torch.bfloat16, device, on_progress=lambda _: None)
    return load_decoder(choose_head(read_checkpoint(path), wish), options)


def headed_engine(decoder: AnyDecoder) -> Engine:
    """An engine that asks the head, as the worker does, and has nothing else guess."""
    assert isinstance(decoder, FusedDecoder)
    assert decoder.head
    runner = HeadRunner(runner_of(decoder, drafts=True), decoder.head, vocab_size=decoder.vocab_size)
    drafts = draft_source("mtp", MOST_DRAFT_TOKENS, on_device=True)
    return Engine(runner, vocab_size=decoder.vocab_size, has_states=True, drafts=drafts)


def cpu_ratio(engines: tuple[Engine, Engine], turn: int, new: int) -> float:
    """The seconds of CPU that an answer takes without a head, over those with it: both at once, in turns."""
    took = [0.0, 0.0]
    numbers = [engine.submit(prompt(turn, 32), new) for engine in engines]

    def written(side: int) -> int:
        return len(engines[side].tokens[numbers[side]])

    while min(map(written, (0, 1))) < new:
        side = min((0, 1), key=written)
        started = time.process_time()
        engines[side].step()
        took[side] += time.process_time() - started
    return took[0] / took[1]
