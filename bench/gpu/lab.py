"""The device, the models on it, and the ways in which it can attend."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from bench.budget import Budget
from bench.engine.serving import Engine
from bench.gpu.case import LeftOutError
from neuron.device.attention import use_backend
from neuron.device.cuda_graphs import Capture, Computation, CudaGraphCapture
from neuron.device.kv_cache import bytes_per_token
from neuron.device.model_runner import ModelRunner
from neuron.device.page_pool import CODINGS, Coding
from neuron.device.varlen import PAGE_SIZE, Kernel, find_coded_kernel, find_varlen_kernel, select_kernel
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.attention_interface import ATTENTION_NAME, PROBE_NAME, AttentionProbe
from neuron.models.attention_masks import MaskRecorder
from neuron.models.fused.decoder import FusedDecoder, find_family, fuse_decoder
from neuron.models.probe import Probe
from neuron.models.stored_weight import StoredWeight
from neuron.step import CacheShape

# Of Qwen3-0.6B and Qwen3-4B, and of one that a CPU runs in no time.
SHAPES = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    "least": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
}
HEADS = {"0.6B": 16, "4B": 32, "least": 4}
REAL = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
LEAST = {"vocab_size": 2048, "num_key_value_heads": 2, "head_dim": 16}
CONTEXT = 4096
STAND_IN = "plain kernel"
STAND_IN_CONTEXT = 512  # the stand-in reads whole rows of the page table
CACHE_SHARE = 0.3  # of the free memory


Store = Callable[[Tensor], StoredWeight]


class Way(NamedTuple):
    """A way to attend: `kernel` None gathers pages; with `capture` decode steps are captured besides; with
    `coding` pages hold codes."""

    name: str
    kernel: Kernel | None = None
    capture: Capture | None = None
    page_size: int = PAGE_SIZE
    context: int = CONTEXT
    coding: Coding | None = None


@dataclass
class Sides:
    """The same random weights for the engine and for transformers."""

    name: str
    decoder: FusedDecoder
    model: Any

    @property
    def step_bytes(self) -> int:
        """The bytes of weights that a decode step reads."""
        layers = sum(weight.nbytes for weight in self.model.get_decoder().layers.parameters())
        return int(layers + self.model.lm_head.weight.nbytes)


class Lab:
    def __init__(self, device: torch.device, *, is_smoke: bool) -> None:
        self.device = device
        self.is_smoke = is_smoke
        self.is_cuda = device.type == "cuda"
        self.dtype = torch.bfloat16
        self.budget = Budget()  # of the part that runs
        self._sides: Sides | None = None

    @property
    def batches(self) -> Sequence[int]:
        """How many requests run at once, one after the other."""
        return (1, 4) if self.is_smoke else (1, 16, 64)

    def sides(self, shape: str) -> Sides:
        """Both sides of a model of the given shape; one model is kept at a time."""
        if self._sides is None or self._sides.name != shape:
            self.clear()
            self._sides = make_sides(shape, self.dtype, self.device)
        return self._sides

    def clear(self) -> None:
        """Give the model's memory back."""
        self._sides = None
        self.give_back()

    def give_back(self) -> None:
        """Return freed memory to the device."""
        gc.collect()
        if self.is_cuda:
            with suppress(torch.AcceleratorError):
                torch.cuda.empty_cache()

    def ways(self, decoder: FusedDecoder) -> list[Way]:
        """The ways that this device and this torch have, the plainest first.

        Where torch's kernel for paged caches is missing, one in plain torch stands in for it. Its speed says
        nothing; that decode steps can be captured and replayed with it does.
        """
        found = [Way("gather")]
        kernel, name, context = find_varlen_kernel() if self.is_cuda else None, "varlen", CONTEXT
        if kernel is None:
            from tests.device.kernels import varlen  # noqa: PLC0415 - only for torches without their own

            kernel, name, context = varlen, STAND_IN, STAND_IN_CONTEXT
        kernel, size = select_kernel(kernel, decoder.layers, decoder.dtype, decoder.device)
        if kernel is not None:
            found.append(Way(name, kernel, None, size, context))
            found.append(Way(f"{name}, graphs", kernel, self.capture(), size, context))
        return found

    def coded_ways(self, decoder: FusedDecoder) -> list[Way]:
        """The ways to attend to codes: by our kernel where it works, else by gathering."""
        coding = CODINGS["fp8" if self.is_cuda else "int8"]
        kernel = find_coded_kernel() if self.is_cuda else None
        kernel, size = select_kernel(kernel, decoder.layers, decoder.dtype, decoder.device, coding)
        name = f"{coding.name} cache"
        if kernel is None:
            return [Way(f"{name}, gather", coding=coding)]
        return [Way(f"{name}, graphs", kernel, self.capture(), size, coding=coding)]

    def capture(self) -> Capture:
        if self.is_cuda:
            return CudaGraphCapture()
        from tests.device.kernels import TracingCapture  # noqa: PLC0415 - traces instead of graphs

        return TracingCapture()

    def runner(self, decoder: FusedDecoder, way: Way) -> ModelRunner:
        """A runner with as much cache as the batches need, or as there is memory for."""
        slots = max(self.batches)
        context = min(way.context, decoder.context)
        tokens = slots * context
        if self.is_cuda:
            free, _ = torch.cuda.mem_get_info(self.device)
            token_bytes = bytes_per_token(decoder.layers, decoder.dtype, way.coding)
            tokens = min(tokens, int(free * CACHE_SHARE) // token_bytes)
        pages = max(tokens, context) // way.page_size + 1
        shape = CacheShape(num_pages=pages, page_size=way.page_size, num_slots=slots, context=context)
        return ModelRunner(
            decoder, decoder.layers, shape, kernel=way.kernel, capture=way.capture, coding=way.coding
        )

    def engine(self, runner: ModelRunner, **limits: Any) -> Engine:
        vocab_size = self._sides.decoder.vocab_size if self._sides else 0
        most = runner.shape.num_slots
        return Engine(runner, vocab_size=vocab_size, limits=SchedulerLimits(**{"max_running": most} | limits))

    def require(self, num_bytes: float) -> None:
        """Raises `LeftOutError` unless the device has so much free memory."""
        if self.is_cuda and torch.cuda.mem_get_info(self.device)[0] < num_bytes:
            raise LeftOutError(f"it takes {num_bytes / 2**30:.0f} GiB of memory")

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def num_bytes(shape: str, dtype: torch.dtype) -> int:
    """What the weights of a shape take, its one embedding included."""
    rest = LEAST if shape == "least" else REAL
    hidden, between, layers = SHAPES[shape].values()
    heads = 2 * HEADS[shape] + 2 * rest["num_key_value_heads"]  # query and output, key and value
    layer = hidden * (heads * rest["head_dim"] + 3 * between)
    return (layers * layer + rest["vocab_size"] * hidden) * dtype.itemsize


def make_sides(shape: str, dtype: torch.dtype, device: torch.device, **changes: Any) -> Sides:
    """Random weights, made on the device."""
    rest = LEAST if shape == "least" else REAL
    config = transformers.Qwen3Config(
        **SHAPES[shape] | rest | changes,
        num_attention_heads=HEADS[shape],
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.requires_grad_(requires_grad=False)
    return Sides(shape, fused(model), model)


def fused(model: Any, store: Store | None = None) -> FusedDecoder:
    """Our decoder with a copy of a model's weights, those of its linear layers as `store` makes them."""
    twin = copy.deepcopy(model)
    for module in twin.modules() if store else ():
        if isinstance(module, torch.nn.Linear):
            assert store
            module.weight = torch.nn.Parameter(store(module.weight), requires_grad=False)
    twin.set_attn_implementation(PROBE_NAME)
    attention = AttentionProbe()
    tokens = torch.zeros(1, 4, dtype=torch.int64, device=model.device)
    positions = torch.arange(4, device=model.device)
    with torch.inference_mode(), use_backend(attention), attention.recording(MaskRecorder(is_told=False)):
        out = twin(input_ids=tokens, position_ids=positions[None], use_cache=False)
    twin.set_attn_implementation(ATTENTION_NAME)
    probe = Probe(attention, None, (0,) * 4, out.logits[0, -1], first_position=0, has_silent_layers=False)
    family = find_family(twin.config)
    assert family is not None, "the shape is one that the decoder knows"
    return fuse_decoder(twin, family, twin.config, probe, context=twin.config.max_position_embeddings)


class Counted:
    """A `Capture` that counts what could be captured."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.count = 0

    def __call__(self, run: Computation) -> Computation:
        replay = self._capture(run)
        self.count += 1
        return replay
