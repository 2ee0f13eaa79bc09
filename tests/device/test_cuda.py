"""`pytest -m gpu`: a CUDA device gives the CPU's texts, also by its own kernel and by captured steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neuron.device.cuda_graphs import CudaGraphCapture
from neuron.device.page_pool import CODINGS, Coding
from neuron.device.resumable import Resumable
from neuron.device.varlen import find_coded_kernel, find_varlen_kernel, select_kernel
from neuron.models.decoder import AnyDecoder
from neuron.models.matrix import Groups, Matrix
from neuron.models.upload import UploadRing
from neuron.pipe import Loaded, Sampling, Status
from neuron.step import CacheShape
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.daemon import Daemon
from tests.device.kernels import varlen
from tests.device.random_weights import BLOCK_FORMATS, CODES, stored_matrix
from tests.device.serving import GREEDY, Serving, decoder, prompt, texts
from tests.device.zoo import FAMILIES, save

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = "cuda:0"
NEW = 12


@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_texts_equal_the_cpus(family: str, tmp_path: Path):
    path = save(tmp_path, family)
    prompts = {length: prompt(length, length) for length in (3, 21, 70)}
    for sampling in (GREEDY, Sampling(temperature=1.0, top_p=0.9, seed=3)):
        assert texts(decoder(path, device=CUDA), prompts, sampling) == texts(decoder(path), prompts, sampling)


@torch.inference_mode()
def test_a_computation_stops_and_goes_on():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8))).to(CUDA)
    rows = torch.randn(256, 512, device=CUDA)
    computation = Resumable(lambda: layers(rows), layers[0].weight.device)
    turns = 1
    while not computation.run(0.0):
        turns += 1
    assert turns >= 8
    assert torch.equal(computation.result, layers(rows))


def serving_of(loaded: AnyDecoder, *, by_kernel: bool, captured: bool) -> Serving:
    """By torch's kernel; where this torch has none, by the one in plain torch, which can be captured, too."""
    found = find_varlen_kernel() or varlen
    kernel, size = select_kernel(found, loaded.layers, loaded.dtype, loaded.device)
    assert kernel is not None
    shape = CacheShape(num_pages=2048 // size, page_size=size, num_slots=8, context=256)
    capture = CudaGraphCapture() if captured else None
    return Serving(loaded, shape, kernel=kernel if by_kernel else None, capture=capture)


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "mistral",
        "qwen3",
        "qwen3_moe",
        "glm4_moe",
        "youtu",
        "lfm2",
        "qwen3_5_text",
        "qwen3_next",
        "bamba",
    ],
)
@pytest.mark.parametrize("captured", [False, True], ids=["kernel", "captured"])
def test_the_paged_kernel_and_captured_steps_agree_with_gathering(
    family: str, captured: bool, tmp_path: Path
):
    """Rounding differs in bfloat16, so nearly all texts begin alike, not all."""
    loaded = decoder(save(tmp_path, family), "bfloat16", CUDA)
    told = []
    for by_kernel in (False, True):
        serving = serving_of(loaded, by_kernel=by_kernel, captured=captured)
        assert (serving.runner._graphs is not None) == (by_kernel and captured)
        for number in range(24):
            serving.submit(number, prompt(number, 10 + number), max_tokens=NEW)
        told.append(serving.drain())
    begun_alike = sum(told[0][number][:3] == told[1][number][:3] for number in range(24))
    assert begun_alike >= 18


def test_latents_longer_than_kernels_take_are_read_all_the_same(tmp_path: Path):
    """FlashAttention ends at 256 values a head; DeepSeek's latents have 576."""
    path = save(tmp_path, "youtu", kv_lora_rank=512, qk_rope_head_dim=64, head_dim=64)
    loaded = decoder(path, "bfloat16", CUDA)
    kernel, size = select_kernel(find_varlen_kernel(), loaded.layers, loaded.dtype, loaded.device)
    shape = CacheShape(num_pages=2048 // size, page_size=size, num_slots=8, context=256)
    prompts = {number: prompt(number, 10 + number) for number in range(24)}
    wanted = texts(loaded, prompts, max_tokens=NEW)
    found = texts(loaded, prompts, max_tokens=NEW, shape=shape, kernel=kernel)
    assert sum(found[number][:3] == wanted[number][:3] for number in prompts) >= 18


def test_a_replayed_step_equals_the_captured_one(tmp_path: Path):
    """With the same kernels and sizes, not a bit differs."""
    loaded = decoder(save(tmp_path), "bfloat16", CUDA)
    serving = serving_of(loaded, by_kernel=True, captured=True)
    graphs = serving.runner._graphs
    assert graphs is not None
    for number in range(8):
        serving.submit(number, prompt(number, 9), max_tokens=NEW)
    serving.step()
    plan = serving.scheduler.plan()
    assert plan is not None
    with torch.inference_mode():
        serving.runner._table.update(plan)
        replayed = graphs.run(plan.chunks).clone()
        assert torch.equal(replayed, graphs._decode(8))


# --- weights as they are stored ---------------------------------------------------------------------------


def on_cuda(matrix: Matrix) -> Matrix:
    blocks, bias = tuple(block.to(CUDA) for block in matrix.blocks), matrix.bias
    return replace(matrix, blocks=blocks, bias=None if bias is None else bias.to(CUDA))


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("name", [*BLOCK_FORMATS, *CODES])
def test_products_with_stored_weights_are_those_of_their_numbers(name: str):
    """Chosen by time: by Triton, by torch's own operations, or with dequantised weights."""
    matrix = on_cuda(stored_matrix(name, 192, 1024))
    assert matrix.bias is not None
    multiply, weight = matrix.product(), matrix.dequantize(torch.float32)
    for rows in (1, 16, 300):
        x = torch.randn(rows, 1024, device=CUDA, dtype=torch.bfloat16)
        found = multiply(x)
        assert found.dtype is torch.bfloat16
        assert off(found, x.float() @ weight.T + matrix.bias) < 0.05
    captured = CudaGraphCapture()(lambda: multiply(x))
    assert torch.equal(captured(), multiply(x))


@pytest.mark.parametrize("name", ["q4_k", "mxfp4", "int4 with zeros", "fp8 by row"])
def test_rows_of_experts_are_multiplied_in_one_operation(name: str):
    matrix = on_cuda(stored_matrix(name, 6, 192, 1024))
    multiply = matrix.grouped_product()
    assert multiply is not None
    assert matrix.bias is not None
    for counts in ([0, 1, 0, 0, 2, 0], [40, 0, 1, 3, 17, 64]):
        experts = torch.arange(6, device=CUDA).repeat_interleave(torch.tensor(counts, device=CUDA))
        x = torch.randn(len(experts), 1024, device=CUDA, dtype=torch.bfloat16)
        weight = matrix.dequantize(torch.float32)[experts]
        wanted = torch.einsum("ri,roi->ro", x.float(), weight) + matrix.bias[experts]
        assert off(multiply(x, Groups(experts, 6)), wanted) < 0.05


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_attention_to_codes_reads_them_in_place(coding: Coding, tmp_path: Path):
    loaded = decoder(save(tmp_path, "qwen3"), "bfloat16", CUDA)
    kernel, size = select_kernel(find_coded_kernel(), loaded.layers, loaded.dtype, loaded.device, coding)
    assert kernel is not None
    shape = CacheShape(num_pages=2048 // size, page_size=size, num_slots=8, context=256)
    prompts = {number: prompt(number, 10 + number) for number in range(24)}
    wanted = texts(loaded, prompts, max_tokens=NEW, shape=shape, coding=coding)
    capture = CudaGraphCapture()
    found = texts(loaded, prompts, max_tokens=NEW, shape=shape, coding=coding, kernel=kernel, capture=capture)
    assert sum(found[number][:3] == wanted[number][:3] for number in prompts) >= 18


def test_tensors_are_uploaded_while_others_are_read():
    tensors = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (1, 999, 100_000)]
    with UploadRing(torch.device(CUDA), buffer_bytes=1000) as ring:
        copies = [ring.copy(tensor) for tensor in tensors]
    for copied, tensor in zip(copies, tensors, strict=True):
        assert copied.is_cuda
        assert torch.equal(copied.cpu(), tensor)


def test_a_model_that_slept_in_host_memory_answers_as_before(tmp_path: Path):
    path = save(tmp_path, "qwen3")
    models = ModelPool(torch.device(CUDA), WorkerSettings(kv_mb=64))
    before = models.load("m", path, lambda _: None)
    weights = before.loaded.module
    expected = texts(weights, {0: prompt(1, 20)})  # type: ignore[arg-type]
    loaded = models.unload("m").loaded  # type: ignore[union-attr]
    del before
    taken = torch.cuda.memory_allocated()
    assert models.asleep.put("m", loaded, 0)
    assert torch.cuda.memory_allocated() < taken
    woken = models.load("m", path, lambda _: None)
    assert woken.loaded.module is weights
    assert texts(weights, {0: prompt(1, 20)}) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("coding", [None, *CODINGS.values()], ids=["plain", *CODINGS])
def test_pages_in_host_memory_come_back_as_they_were(coding: Coding | None, tmp_path: Path):
    shape = CacheShape(num_pages=9, page_size=8, num_slots=2, context=72, num_host_pages=20)
    serving = Serving(decoder(save(tmp_path), device=CUDA), shape, coding=coding)
    for number in range(4):
        serving.submit(number, prompt(number % 2, 60), max_tokens=8)
        serving.drain()
    assert [serving.tokens[0], serving.tokens[1]] == [serving.tokens[2], serving.tokens[3]]


def test_states_in_host_memory_come_back_as_they_were(tmp_path: Path):
    shape = CacheShape(9, 8, 2, context=72, num_snapshots=2, num_host_pages=20, num_host_snapshots=8)
    serving = Serving(decoder(save(tmp_path, "qwen3_next"), device=CUDA), shape)
    for number in range(4):
        serving.submit(number, prompt(number % 2, 60), max_tokens=8)
        serving.drain()
    assert [serving.tokens[0], serving.tokens[1]] == [serving.tokens[2], serving.tokens[3]]


def test_a_worker_owns_the_device(tmp_path: Path):
    path = save(tmp_path, dtype=torch.bfloat16)
    with Daemon("--device", CUDA, "--kv-mb", "64") as daemon:
        assert daemon.ready.thread == "cuda-dev-0"
        assert isinstance(daemon.load(path), Loaded)
        daemon.submit(1, prompt(1, 30))
        assert len(daemon.text(1)) == 8
        status = daemon.wait_for(Status, lambda s: bool(s.models) and not s.models[0].running)
        assert status.models[0].kv_pages_free == status.models[0].kv_pages_total
