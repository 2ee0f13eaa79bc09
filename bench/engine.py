"""neuron's engine beside transformers' `generate` and `generate_batch`: same weights, same threads, one run.

    python -m bench.engine [--quick] [--threads 2] [--device cuda:0] [--json] [--out DIR]

Prints one JSON object as its last line and, with `--out`, writes it there with a description of the machine.
Each ratio is taken from runs that alternate, best of each side: on a shared machine read the ratios, not the
speeds. `generate` gets what suits it: one length for all prompts, no padding, no end before the last token.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in neuron's workers; read when torch is imported

import torch
import transformers
from torch.nn.functional import linear

from bench.common import machine, rounded
from neuron.device.cuda_graphs import CudaGraphCapture
from neuron.device.memory import release_unused
from neuron.device.model_runner import ModelRunner
from neuron.device.varlen import find_varlen_kernel, select_kernel
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.checkpoint import read_checkpoint
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.fused_decoder import FusedDecoder
from neuron.models.linear import activation_dtype
from neuron.models.tiny import WEIGHTS_DIR
from neuron.pipe import Sampling, Submit, Tokens
from neuron.step import CacheShape

VOCAB = 8192
CACHE_TOKENS = 16_384
FULL, QUICK = (64, 4), (16, 2)  # new tokens a request, repeats
# The result's own keys: bfloat16's; what else was measured is in its `runs`.
FIGURES = (
    "decode_1_over_generate",
    "total_16_over_generate_batch",
    "total_16_over_static",
    "ttft_warm_over_cold",
    "gap_p99_over_p50",
    "matmul_fraction",
    "bandwidth_fraction",
    "overhead_us_per_step",
)
FUSED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
LEAST_VOCAB = 1500  # helexa-tiny's, about
PREFIX_TOKENS = 2000
# 370 MB in bfloat16: more than caches hold, so that a decode step is bound by memory.
LARGE = {
    "vocab_size": 16_384,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}


def prompt(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, LEAST_VOCAB, (length,), generator=generator).tolist()


class Engine:
    """A scheduler as the worker has it, with the time of every step and of every token."""

    def __init__(self, runner: ModelRunner) -> None:
        self._scheduler = Scheduler("m", runner.shape, vocab_size=VOCAB, limits=SchedulerLimits())
        self._runner = runner
        self._number = 0
        self.token_times: dict[int, list[float]] = {}
        self.step_s: list[float] = []
        self.run_s: list[float] = []

    def submit(self, tokens: list[int], max_tokens: int) -> int:
        self._number += 1
        self.token_times[self._number] = []
        request = Submit(self._number, "m", tokens, max_tokens, Sampling(), [])
        assert self._scheduler.submit(request, 0.0) is None
        return self._number

    def step(self) -> bool:
        started = time.perf_counter()
        plan = self._scheduler.plan()
        if plan is None:
            return False
        before = time.perf_counter()
        result = self._runner.run(plan)
        after = time.perf_counter()
        events = self._scheduler.apply(plan, result, after - before)
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Tokens):
                self.token_times[event.id].append(now)
        self.run_s.append(after - before)
        self.step_s.append(now - started)
        return True

    def drain(self) -> None:
        while self.step():
            pass


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """The best time of each side, the sides taking turns; one turn before that is not counted."""
    for side in sides:
        side()
    return [min(times) for times in zip(*([timed(s) for s in sides] for _ in range(repeats)), strict=True)]


def serve(runner: ModelRunner, prompts: list[list[int]], new: int) -> None:
    """All of them at once, to their ends."""
    engine = Engine(runner)
    for tokens in prompts:
        engine.submit(tokens, new)
    engine.drain()


def over_generate(runner: ModelRunner, model: Any, requests: int, new: int, repeats: int) -> dict[str, float]:
    """Tokens per second of `requests` at once on both sides."""
    prompts = [prompt(seed, 64) for seed in range(requests)]
    ids = torch.tensor(prompts, device=model.device)

    def theirs() -> None:
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None)

    ours_s, theirs_s = alternate(repeats, partial(serve, runner, prompts, new), theirs)
    return {"ours": requests * new / ours_s, "theirs": requests * new / theirs_s, "ratio": theirs_s / ours_s}


def over_generate_batch(sides: Sides, *, quick: bool) -> dict[str, float]:
    """Tokens per second of 16 requests at once over transformers' continuous batching."""
    _, runner, model = sides
    new, repeats = QUICK if quick else FULL
    prompts = [prompt(seed, 64) for seed in range(16)]
    config = transformers.GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1)

    def theirs() -> None:
        done = model.generate_batch(prompts, generation_config=config)
        assert sum(len(answer.generated_tokens) for answer in done.values()) == 16 * new

    ours_s, theirs_s = alternate(repeats, partial(serve, runner, prompts, new), theirs)
    return {"total_16_over_generate_batch": theirs_s / ours_s}


def decode_step(sides: Sides, steps: int) -> dict[str, float]:
    """A whole decode step of one request against its matrix products alone, taking turns, one by one.

    `matmul_fraction` has torch's own products, `linear` on the shapes as the step has them, fused. Above 1
    the layout in which the step multiplies saves more than all the rest of it takes. `packed_fraction` has
    the products in that layout: what is missing to 1 is the rest.
    """
    decoder, runner, model = sides
    assert isinstance(decoder, FusedDecoder)
    device, dtype = decoder.device, activation_dtype(decoder.device, decoder.dtype)
    packed = [
        (packed_linear, torch.randn(1, packed_linear.in_features).to(device, dtype))
        for packed_linear in decoder.linears
    ]
    weights = fused_weights(model)
    plain = [(partial(linear, weight=w), torch.randn(1, w.shape[1]).to(w)) for w in weights]
    num_bytes = sum(weight.nbytes for weight in weights)
    engine = Engine(runner)
    engine.submit(prompt(0, 64), steps + 8)
    for _ in range(8):
        engine.step()
    sides = (engine.step, partial(multiply, packed), partial(multiply, plain))
    turns = [[timed(side) for side in sides] for _ in range(steps)]
    step_s, packed_s, plain_s = map(statistics.median, zip(*turns, strict=True))
    return {
        "matmul_fraction": plain_s / step_s,
        "packed_fraction": packed_s / step_s,
        "bandwidth_fraction": num_bytes / step_s / bandwidth(device),
        "step_ms": 1e3 * step_s,
    }


def multiply(linears: Sequence[tuple[Callable[[torch.Tensor], object], torch.Tensor]]) -> None:
    for packed_linear, row in linears:
        packed_linear(row)


def fused_weights(model: Any) -> list[torch.Tensor]:
    """What a step multiplies by, in order."""
    layers = model.get_decoder().layers
    wanted = [[layer.get_submodule(name).weight for name in names] for layer in layers for names in FUSED]
    return [*map(torch.cat, wanted), model.lm_head.weight]


def bandwidth(device: torch.device) -> float:
    """Bytes a second that are read from memory: a sum over more than any cache holds."""
    block = torch.ones(64 << 20, dtype=torch.float32, device=device)
    return block.nbytes / min(timed(block.sum) for _ in range(5))


def ttft_warm_over_cold(runner: ModelRunner, repeats: int) -> float:
    def first_token_s(engine: Engine, tokens: list[int]) -> float:
        started = time.perf_counter()
        number = engine.submit(tokens, 1)
        engine.drain()
        return engine.token_times[number][0] - started

    ratios = []
    for seed in range(repeats):
        engine, prefix = Engine(runner), prompt(seed, PREFIX_TOKENS)
        cold = first_token_s(engine, prefix + prompt(1, 20))
        ratios.append(first_token_s(engine, prefix + prompt(2, 20)) / cold)
    return min(ratios)


def gap_p99_over_p50(runner: ModelRunner) -> float:
    """Gaps of eight running streams while a long prompt comes in, over their median gap alone."""

    def gaps(engine: Engine, numbers: list[int], since: float) -> Iterator[float]:
        for number in numbers:
            times = [at for at in engine.token_times[number] if at >= since]
            yield from (b - a for a, b in pairwise(times))

    engine = Engine(runner)
    streams = [engine.submit(prompt(seed, 64), 400) for seed in range(8)]
    for _ in range(30):
        engine.step()
    alone = statistics.median(gaps(engine, streams, engine.token_times[streams[0]][5]))
    since = time.perf_counter()
    late = engine.submit(prompt(99, PREFIX_TOKENS), 1)
    while not engine.token_times[late]:
        engine.step()
    during = sorted(gaps(engine, streams, since))
    return during[min(len(during) - 1, int(len(during) * 0.99))] / alone


def overhead_us_per_step(runner: ModelRunner) -> float:
    """Median time per decode step of 16 requests that is not the device's."""
    engine = Engine(runner)
    for seed in range(16):
        engine.submit(prompt(seed, 64), 24)
    engine.drain()
    overheads = [step - run for step, run in zip(engine.step_s, engine.run_s, strict=True)]
    return statistics.median(overheads) * 1e6


def random_weights(path: Path, dtype: torch.dtype = torch.float32, **changes: int) -> None:
    """Qwen3's shape with some 40 million parameters, or another after `changes`."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=8192,
        eos_token_id=None,
    )
    config.update(changes)
    transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(path)


class Sides(NamedTuple):
    """The same weights for the engine and for transformers."""

    decoder: AnyDecoder
    runner: ModelRunner
    model: Any


def both(path: Path, dtype: torch.dtype, device: torch.device) -> Sides:
    checkpoint = read_checkpoint(path)
    decoder = load_decoder(checkpoint, dtype=dtype, device=device, on_progress=lambda _: None)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(device)
    release_unused(device)  # as the worker does after a load; to both sides' good
    return Sides(decoder, runner_of(decoder), model)


def runner_of(decoder: AnyDecoder) -> ModelRunner:
    """As the worker makes it."""
    is_cuda = decoder.device.type == "cuda"
    kernel, size = select_kernel(
        find_varlen_kernel() if is_cuda else None, decoder.layers, decoder.dtype, decoder.device
    )
    shape = CacheShape(num_pages=CACHE_TOKENS // size, page_size=size, num_slots=32, context=4096)
    capture = CudaGraphCapture() if is_cuda else None
    return ModelRunner(decoder, decoder.layers, shape, kernel=kernel, capture=capture)


def measure(sides: Sides, *, quick: bool) -> dict[str, Any]:
    _, runner, model = sides
    new, repeats = QUICK if quick else FULL
    one, many = (over_generate(runner, model, requests, new, repeats) for requests in (1, 16))
    return {
        "decode_1_over_generate": one["ratio"],
        "total_16_over_static": many["ratio"],
        "ttft_warm_over_cold": ttft_warm_over_cold(runner, 1 if quick else 3),
        "gap_p99_over_p50": statistics.median(gap_p99_over_p50(runner) for _ in range(1 if quick else 5)),
        "overhead_us_per_step": overhead_us_per_step(runner),
        "tokens_per_s": {"one": one, "sixteen": many},
    }


class Kind(NamedTuple):
    name: str
    path: Path
    dtype: torch.dtype
    quick: bool


def run_all(folder: Path, device: torch.device, *, quick: bool, note: Callable[[str, Any], None]) -> None:
    """Everything, each figure given to `note`."""
    path, large = folder / "40M", folder / "184M"
    random_weights(path)
    random_weights(large, torch.bfloat16, **LARGE)
    kinds = [Kind("bfloat16", path, torch.bfloat16, quick)]
    if not quick:
        kinds.append(Kind("float32", path, torch.float32, quick=False))
        kinds.append(Kind("helexa-tiny", WEIGHTS_DIR, torch.bfloat16, quick=True))
    for kind in kinds:
        note(kind.name, measure(both(kind.path, kind.dtype, device), quick=kind.quick))
    note("large", decode_step(both(large, torch.bfloat16, device), steps=32 if quick else 64))
    # Last: its cache takes most of the memory, and whoever touches that next waits for the machine.
    for kind in kinds:
        note(kind.name, over_generate_batch(both(kind.path, kind.dtype, device), quick=kind.quick))


def described(options: argparse.Namespace) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    is_cuda = options.device.type == "cuda"
    name = torch.cuda.get_device_name(options.device) if is_cuda else torch.backends.cpu.get_cpu_capability()
    return machine() | versions | {"threads": options.threads, "device": name}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="bfloat16 only, fewer tokens and repeats")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda:N")
    parser.add_argument("--out", type=Path, help="directory to write the result to")
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    result: dict[str, Any] = defaultdict(dict)

    def note(name: str, figures: dict[str, Any]) -> None:
        result[name] |= rounded(figures)
        if not options.json:
            print(name, json.dumps(result[name], indent=2), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run_all(Path(folder), options.device, quick=options.quick, note=note)
    measured = result["bfloat16"] | result["large"]
    figures = {key: measured[key] for key in FIGURES}
    line = json.dumps(figures | {"machine": described(options), "runs": result})
    if options.out:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        (options.out / f"engine-{stamp}.json").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
