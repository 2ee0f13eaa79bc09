"""What formats of weights cost in quality, against the same checkpoint in floats: python -m bench.quality

    formats    by model and format: `bits` a weight; `kl`, the mean KL divergence of the next token's
               distribution from that with floats, in nats, and `kl_p99`, its 99th percentile; `top1`, the
               share of places where both have the same likeliest token

The models are helexa-tiny, with conversations that it was taught, and random weights with random tokens.
GGUF's types and scaled codes are those of all matrices in layers; embedding and head stay floats. The types
are quantized by llama.cpp's library, and without it by the package gguf, which does not have all. A scaled
code is the nearest one: nothing is calibrated, as GPTQ and AWQ would do. `in situ` is what a load with
`quant` makes, head included.

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from bench import command, inference
from bench.engine.llama import LLAMA
from bench.engine.models import LEAST, SMALL, random_weights
from bench.engine.serving import prompt
from bench.figures import table
from bench.quality.divergence import divergence, load, log_probabilities
from bench.quality.quantizers import bits_per_weight, quantizers, stored_as
from neuron.models.checkpoint import Checkpoint
from neuron.models.decoder import decoder_class
from neuron.models.in_situ import IN_SITU
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.reading import read_checkpoint
from neuron.models.tiny import WEIGHTS_DIR, load_handbook
from neuron.models.tiny.examples import encode, exam

RANDOM_TOKENS = 256
WIDEST_BLOCK = 256
WIDE = LEAST | {"hidden_size": WIDEST_BLOCK, "intermediate_size": WIDEST_BLOCK}
LEAST_FORMATS = ("q8_0", "int4", "q4_k in situ")  # for --smoke: one of each kind


def measure(run: command.Run) -> dict[str, Any]:
    inference.set_up()
    formats: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = random_weights(Path(folder), run.pick(SMALL, SMALL, WIDE))
        prompts = [prompt(seed, RANDOM_TOKENS) for seed in range(run.pick(8, 2, 1))]
        for name, checkpoint, sequences in (
            ("helexa-tiny", read_checkpoint(WEIGHTS_DIR), taught(run.pick(4, 32, 2000))),
            ("random", read_checkpoint(path), prompts),
        ):
            formats[name] = compared(run, checkpoint, sequences)
    return {"formats": formats}


def taught(every: int) -> list[list[int]]:
    """Conversations that helexa-tiny was taught, with its answers, of `every` so many one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(WEIGHTS_DIR)
    cases = [case for cases in exam(load_handbook()).values() for case in cases]
    return [encode(tokenizer, case).ids for case in cases[::every]]


def compared(
    run: command.Run, checkpoint: Checkpoint, sequences: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """What each format costs."""
    reference = log_probabilities(load(checkpoint), sequences)
    found: dict[str, dict[str, float]] = {}
    stored = ways(run)
    for name in run.options.formats or run.pick(stored, stored, LEAST_FORMATS):
        if run.budget.allows(name):
            other = stored[name](checkpoint)
            probabilities = log_probabilities(load(other), sequences)
            found[name] = {"bits": bits_per_weight(other)} | divergence(reference, probabilities)
            run.say(f"{name}: {found[name]}")
    return found


def ways(run: command.Run) -> dict[str, Callable[[Checkpoint], Checkpoint]]:
    """What stores a checkpoint in a format, by the format's name."""
    library = LLAMA.libraries / "libggml-base.so" if run.has(LLAMA.name) else None
    found = {name: partial(stored_as, quantize) for name, quantize in quantizers(library).items()}
    return found | {
        f"{quant} in situ": partial(in_situ, quant=quant, find_class=decoder_class) for quant in IN_SITU
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--formats", nargs="+", metavar="NAME", help="of these alone")


def shown(result: dict[str, Any]) -> Iterator[str]:
    """A row a format, for each model its divergence and agreement; then the other keys."""
    models = result["formats"]
    heads = [f"{model} {key}" for model in models for key in ("KL", "top-1")]
    yield "".join(f"{head:>18}" for head in ("format", "bits", *heads))
    for name, first in next(iter(models.values())).items():
        cells = [f"{model[name][key]:.5f}" for model in models.values() for key in ("kl", "top1")]
        yield "".join(f"{cell:>18}" for cell in (name, f"{first['bits']:.2f}", *cells))
    yield from table({key: value for key, value in result.items() if key != "formats"})


if __name__ == "__main__":
    command.run("quality", __doc__, measure, peers=[LLAMA], add_options=add_options, show=shown)
