"""The paged kernel and captured decode steps, as far as they can be tested without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.device import attention_step, convolution, decode_programs, delta_step, expert_steps, row_steps
from neuron.device.cuda_graphs import Capture, capture_sizes
from neuron.device.kv_cache import KVShape
from neuron.device.varlen import find_varlen_kernel, select_kernel
from neuron.models.formats import floats
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.fused.rotation import Rotary
from neuron.pipe import Sampling
from neuron.step import CacheShape
from tests.device.kernels import TracingCapture, varlen
from tests.device.serving import GREEDY, Serving, decoder, prompt, texts
from tests.device.zoo import save

CPU = torch.device("cpu")
LAYERS = {0: KVShape(2, 16, 16), 1: KVShape(1, 32, 32), 2: KVShape(1, 40, 40, values_are_keys=True)}
PROMPTS = {number: prompt(number, length) for number, length in enumerate((1, 5, 30, 61, 9, 70))}
WARM = Sampling(temperature=1.0, top_p=0.9, seed=5)
SMALL = CacheShape(num_pages=100, page_size=8, num_slots=8, context=128)


@pytest.fixture(autouse=True)
def products_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: what is traced are torch's operations, and no angles are kept."""
    monkeypatch.setattr(floats, "_uses_ext", lambda *_: False)
    for module in (attention_step, convolution, decode_programs, delta_step, expert_steps, row_steps):
        monkeypatch.setattr(module, "_native", None)
    monkeypatch.setattr(Rotary, "__call__", Rotary._computed)


def test_torch_has_the_kernel_from_2_13_on():
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    assert (find_varlen_kernel() is not None) == (release >= (2, 13))


def test_a_kernel_without_pages_is_not_used(monkeypatch: pytest.MonkeyPatch):
    """As torch 2.11 has it."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        raise AssertionError

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert find_varlen_kernel() is None


def test_a_torch_without_the_kernel_is_no_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert find_varlen_kernel() is None


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "gemma2", "gpt_oss", "llama4_text", "deepseek_v3", "diffllama", "hrm_text"]
)
def test_texts_by_the_kernel_equal_those_by_gathering(family: str, tmp_path: Path):
    """Soft caps and sinks are not left to the kernel, which lacks them."""
    loaded = decoder(save(tmp_path, family), fused=False)
    for sampling in (GREEDY, WARM):
        assert texts(loaded, PROMPTS, sampling, kernel=varlen) == texts(loaded, PROMPTS, sampling)


def test_the_smallest_page_that_works_is_chosen():
    def coarse(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if key.shape[1] % 256:
            raise RuntimeError("pages must hold a multiple of 256 tokens")
        return varlen(query, key, *rest, **options)

    assert select_kernel(varlen, LAYERS, torch.float32, CPU) == (varlen, 16)
    assert select_kernel(coarse, LAYERS, torch.float32, CPU) == (coarse, 256)
    assert select_kernel(varlen, LAYERS, torch.bfloat16, CPU) == (varlen, 16)
    assert select_kernel(None, LAYERS, torch.float32, CPU) == (None, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"window_size": (-1, 0)},
        {"scale": 1.0},
        {"block_table": torch.zeros(2, 2, dtype=torch.int32)},
    ],
    ids=["window", "scale", "pages"],
)
def test_a_kernel_that_disagrees_is_not_used(change: dict[str, Any]):
    def wrong(*arguments: Any, **options: Any) -> torch.Tensor:
        return varlen(*arguments, **options | change)

    assert select_kernel(wrong, LAYERS, torch.float32, CPU) == (None, 16)


def test_a_build_without_flash_attention_gathers():
    """As on this machine."""
    assert select_kernel(find_varlen_kernel(), LAYERS, torch.bfloat16, CPU) == (None, 16)


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9, 32, 40])
def test_capture_sizes_leave_few_rows_over(most: int):
    sizes = capture_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    assert all(
        min(size for size in sizes if size >= count) <= max(2 * count, count + 7)
        for count in range(1, most + 1)
    )


# --- captured steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", "float32"),
        ("mistral", "float32"),
        ("qwen3", "float32"),
        ("youtu", "float32"),
        ("lfm2", "float32"),
        ("qwen3_5_text", "float32"),
        ("bamba", "float32"),
        ("llama", "bfloat16"),
    ],
)
def test_captured_steps_equal_others(
    family: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = decoder(save(tmp_path, family), dtype)
    assert isinstance(loaded, FusedDecoder)
    capture = TracingCapture()
    assert mixed(loaded, capture) == mixed(loaded, None)
    assert len(capture.replays) > 20
    assert {8} < set(capture.replays) <= {1, 2, 4, 8}, "five rows run in the capture for eight"


@pytest.mark.parametrize("family", ["qwen3_moe", "glm4_moe", "qwen2_moe"])
def test_captured_steps_with_experts_equal_others(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on CUDA, where one operation multiplies by all experts' matrices."""
    path = save(tmp_path, family)
    one_by_one = decoder(path)
    monkeypatch.setattr(floats, "_uses_grouped_mm", lambda _: True)
    loaded = decoder(path)
    assert isinstance(one_by_one, FusedDecoder)
    assert isinstance(loaded, FusedDecoder)
    assert (loaded.is_capturable, one_by_one.is_capturable) == (True, False)
    capture = TracingCapture()
    assert mixed(loaded, capture) == mixed(loaded, None) == mixed(one_by_one, None)
    assert len(capture.replays) > 20


def mixed(loaded: FusedDecoder, capture: Capture | None) -> dict[int, list[int]]:
    """Greedy and sampled answers at once, some of them beside prompts."""
    serving = Serving(loaded, SMALL, kernel=varlen, capture=capture, max_running=5)
    for number, tokens in PROMPTS.items():
        serving.submit(number, tokens, WARM if number % 2 else GREEDY)
    return serving.drain()


def test_padding_rows_touch_the_padding_page_only(tmp_path: Path):
    """Five rows run in the capture for eight."""

    def embed_padding(model: torch.nn.Module) -> None:
        torch.nn.init.normal_(model.get_input_embeddings().weight)  # type: ignore[operator]

    loaded = decoder(save(tmp_path, edit=embed_padding))
    serving = Serving(loaded, SMALL, kernel=varlen, capture=TracingCapture())
    for number in range(5):
        serving.submit(number, prompt(number, 9), max_tokens=6)
    serving.step()
    free = set(range(SMALL.num_pages)) - {p for r in serving.scheduler._running for p in r.pages}
    serving.drain()
    keys, values = serving.runner.cache.pools(0)
    assert len(keys) == SMALL.num_pages + 1
    assert keys[-1].any(), "the padding page took what belongs to nobody"
    assert not any(pool[page].any() for pool in (keys, values) for page in free)


def test_preempted_requests_resume_in_captured_steps(tmp_path: Path):
    loaded = decoder(save(tmp_path))
    tight = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128)
    prompts = {seed: prompt(seed, 20) for seed in range(6)}
    serving = Serving(loaded, tight, kernel=varlen, capture=TracingCapture())
    for number, tokens in prompts.items():
        serving.submit(number, tokens, WARM, max_tokens=40)
    crowded = serving.drain()
    assert serving.num_joined > len(prompts)
    for number, tokens in prompts.items():
        alone = Serving(loaded)
        alone.submit(number, tokens, WARM, max_tokens=40)
        assert alone.drain()[number] == crowded[number]


def test_steps_run_where_they_cannot_be_captured(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def refuse(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    loaded = decoder(save(tmp_path))
    assert texts(loaded, PROMPTS, kernel=varlen, capture=refuse) == texts(loaded, PROMPTS)
    assert "cannot be captured" in caplog.text


def test_a_model_that_is_not_capturable_is_not_captured(tmp_path: Path):
    capture = TracingCapture()
    loaded = decoder(save(tmp_path, "qwen3_moe"))
    assert texts(loaded, PROMPTS, kernel=varlen, capture=capture) == texts(loaded, PROMPTS)
    assert not capture.replays
