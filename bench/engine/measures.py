"""Measures of the engine: speed beside transformers', latencies, and where a step's time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import transformers
from torch.nn.functional import linear

from bench.budget import Budget
from bench.engine.models import Sides
from bench.engine.serving import Engine, alternate, prompt, serve, timed
from neuron.models.fused.decoder import FusedDecoder

PROMPT_TOKENS = 64
BATCH = 16
# What a step of our decoder multiplies by, fused as it fuses it.
FUSED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def engine_of(sides: Sides) -> Engine:
    decoder = sides.decoder
    return Engine(sides.runner, vocab_size=decoder.vocab_size, has_states=bool(decoder.states))


def over_generate(budget: Budget, sides: Sides, requests: int, new: int, repeats: int) -> dict[str, float]:
    """Tokens a second of `requests` at once: the engine's, transformers' `generate`'s, and their ratio."""
    model = sides.model
    prompts = [prompt(seed, PROMPT_TOKENS) for seed in range(requests)]
    ids = torch.tensor(prompts, device=model.device)

    def theirs() -> None:
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None)

    def ours() -> None:
        serve(engine_of(sides), prompts, new)

    ours_s, theirs_s = alternate(budget, f"generate of {requests}", repeats, ours, theirs)
    return {"ours": requests * new / ours_s, "theirs": requests * new / theirs_s, "ratio": theirs_s / ours_s}


def over_generate_batch(
    budget: Budget, sides: Sides, new: int, repeats: int, *, blocks: int | None = None
) -> float:
    """The engine's tokens a second, 16 requests at once, over transformers' continuous batching, whose cache
    has `blocks` of 256 tokens (None: as many as it finds memory for)."""
    model = sides.model
    prompts = [prompt(seed, PROMPT_TOKENS) for seed in range(BATCH)]
    config = transformers.GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1)

    batching = transformers.ContinuousBatchingConfig()
    if blocks is not None:
        batching = transformers.ContinuousBatchingConfig(num_blocks=blocks, max_batch_tokens=256)

    def theirs() -> None:
        done = model.generate_batch(prompts, generation_config=config, continuous_batching_config=batching)
        assert sum(len(answer.generated_tokens) for answer in done.values()) == BATCH * new

    def ours() -> None:
        serve(engine_of(sides), prompts, new)

    ours_s, theirs_s = alternate(budget, "generate_batch", repeats, ours, theirs)
    return theirs_s / ours_s


def decode_step(budget: Budget, sides: Sides, steps: int) -> dict[str, float]:
    """A decode step of one request against its matrix products alone, the three taking turns.

    `matmul_fraction` is of torch's own products, `linear` on the step's fused shapes: above 1 where the
    layout in which the step multiplies saves more than all else takes. `packed_fraction` is of the products
    in that layout: what is missing to 1 is everything else.
    """
    decoder, _, model = sides
    assert isinstance(decoder, FusedDecoder)
    device, dtype = decoder.device, decoder.activations
    packed = [(layer, torch.randn(1, layer.in_features).to(device, dtype)) for layer in decoder.linears]
    weights = fused_weights(model)
    plain = [(partial(linear, weight=w), torch.randn(1, w.shape[1]).to(w)) for w in weights]
    num_bytes = sum(weight.nbytes for weight in weights)
    engine = engine_of(sides)
    engine.submit(prompt(0, PROMPT_TOKENS), steps + 8)
    for _ in range(8):
        engine.step()
    ways = (engine.step, partial(multiply, packed), partial(multiply, plain))
    turns = [[timed(way) for way in ways] for _ in budget.rounds(steps, "decode steps")]
    step_s, packed_s, plain_s = map(statistics.median, zip(*turns, strict=True))
    return {
        "matmul_fraction": plain_s / step_s,
        "packed_fraction": packed_s / step_s,
        "bandwidth_fraction": num_bytes / step_s / bandwidth(device),
        "step_ms": 1e3 * step_s,
    }


def multiply(products: Sequence[tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]]) -> torch.Tensor:
    """Compute every product, and return the last one."""
    for product, rows in products:
        last = product(rows)
    return last


def fused_weights(model: Any) -> list[torch.Tensor]:
    """The matrices that a step multiplies by, in order."""
    layers = model.get_decoder().layers
    wanted = [[layer.get_submodule(name).weight for name in names] for layer in layers for names in FUSED]
    return [*map(torch.cat, wanted), model.lm_head.weight]


def bandwidth(device: torch.device, num_bytes: int = 256 << 20) -> float:
    """The bytes a second that are read from memory: a sum over more than any cache holds."""
    block = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    return block.nbytes / min(timed(block.sum) for _ in range(5))


def first_tokens_s(engine: Engine, prefix: int, seed: int) -> tuple[float, float]:
    """The times to the first token after `prefix` tokens and 20 more: of a new prefix, and of the same one
    with another ending."""
    tokens = prompt(seed, prefix)

    cold_s, warm_s = (turn(engine, tokens + prompt(ending, 20), 1)[0] for ending in (1, 2))
    return cold_s, warm_s


def ttft_warm_over_cold(budget: Budget, sides: Sides, prefix: int, repeats: int) -> float:
    """The time to the first token behind a cached prefix over that behind a new one, at best."""
    times = [
        first_tokens_s(engine_of(sides), prefix, seed) for seed in budget.rounds(repeats, "first tokens")
    ]
    return min(warm / cold for cold, warm in times)


def ttft_turn2_over_turn1(budget: Budget, sides: Sides, prefix: int, answer: int, repeats: int) -> float:
    """The time to the first token of a chat's second turn, 20 tokens after the first turn and its `answer`,
    over that of the first turn of `prefix` tokens, at best."""

    def ratio(seed: int) -> float:
        engine = engine_of(sides)
        first = prompt(seed, prefix)
        turn1_s, tokens = turn(engine, first, answer)
        turn2_s, _ = turn(engine, [*first, *tokens, *prompt(1, 20)], 1)
        return turn2_s / turn1_s

    return min(map(ratio, budget.rounds(repeats, "turns")))


def turn(engine: Engine, tokens: list[int], new: int) -> tuple[float, list[int]]:
    """The time to the first of the `new` tokens that follow a prompt, and these."""
    started = time.perf_counter()
    number = engine.submit(tokens, new)
    engine.drain()
    return engine.token_times[number][0] - started, engine.tokens[number]


def gap_p99_over_p50(sides: Sides, prefix: int) -> float:
    """The p99 of the gaps of eight streams while a long prompt comes in, over their median gap alone."""

    def gaps(engine: Engine, numbers: list[int], since: float) -> Iterator[float]:
        for number in numbers:
            times = [at for at in engine.token_times[number] if at >= since]
            yield from (b - a for a, b in pairwise(times))

    engine = engine_of(sides)
    streams = [engine.submit(prompt(seed, PROMPT_TOKENS), 400) for seed in range(8)]
    for _ in range(30):
        engine.step()
    alone = statistics.median(gaps(engine, streams, engine.token_times[streams[0]][5]))
    since = time.perf_counter()
    late = engine.submit(prompt(99, prefix), 1)
    while not engine.token_times[late]:
        engine.step()
    during = sorted(gaps(engine, streams, since))
    return during[min(len(during) - 1, int(len(during) * 0.99))] / alone


def overhead_us_per_step(sides: Sides, new: int) -> float:
    """The median time of a decode step of 16 requests that is not the device's, in microseconds."""
    engine = engine_of(sides)
    for seed in range(BATCH):
        engine.submit(prompt(seed, PROMPT_TOKENS), new)
    engine.drain()
    overheads = [step - run for step, run in zip(engine.step_s, engine.run_s, strict=True)]
    return statistics.median(overheads) * 1e6
