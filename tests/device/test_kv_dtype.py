"""Keys and values stored as codes of eight bits: what they take, how near they are, and who refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from cortex_site.base.kv_dtype import KV_DTYPES
from neuron.device import page_pool
from neuron.device.kv_cache import bytes_per_token
from neuron.device.page_pool import CODINGS, Coding
from neuron.models.checkpoint import ModelLoadError
from neuron.models.memory_estimate import estimate_memory
from neuron.models.reading import read_checkpoint
from neuron.models.tiny import WEIGHTS_DIR, load_handbook
from neuron.pipe import Sampling
from neuron.step import CacheShape
from neuron.worker.model_pool import ModelPool, WorkerSettings
from neuron.worker.resident_model import ResidentModel
from tests.device.serving import Serving, decoder, prompt, texts
from tests.device.zoo import save

CPU = torch.device("cpu")
SMALL = CacheShape(num_pages=40, page_size=8, num_slots=2, context=128)


@pytest.fixture(params=CODINGS.values(), ids=CODINGS)
def coding(request: pytest.FixtureRequest) -> Coding:
    return request.param


def test_settings_name_the_codings_that_there_are():
    assert page_pool.KV_DTYPES == KV_DTYPES


def test_codes_are_near_what_they_stand_for(coding: Coding):
    """However large or small the vectors are; zeros stay zeros."""
    torch.manual_seed(0)
    sizes = torch.tensor([1e-20, 1e-3, 1.0, 3e4])[:, None, None]
    vectors = torch.randn(4, 50, 64) * sizes
    vectors[0, 0] = 0
    codes, scales = coding.encode(vectors)
    found = codes.float() * scales.float()
    step = {"int8": 1 / 127, "fp8": 1 / 16}[coding.name]  # of a vector's largest value, and of each value
    allowed = {"int8": vectors.abs().amax(-1, keepdim=True).expand_as(vectors), "fp8": vectors.abs()}
    assert ((found - vectors).abs() <= step * allowed[coding.name] * 1.01 + 1e-30).all()
    assert not found[0, 0].any()


def test_tokens_take_half_of_what_they_take_in_bfloat16(coding: Coding, tmp_path: Path):
    path = save(tmp_path, "qwen3", head_dim=128)
    layers = decoder(path).layers
    plain, coded = (bytes_per_token(layers, torch.bfloat16, way) for way in (None, coding))
    assert coded / plain == pytest.approx(0.5, abs=0.01)
    checkpoint = read_checkpoint(path)
    sizes = [
        estimate_memory(checkpoint, torch.bfloat16, context=64, step_tokens=1, rows=1, coding=way).cache
        for way in (None, coding)
    ]
    assert sizes == [64 * plain, 64 * coded]


def logprobs(path: Path, coding: Coding | None) -> torch.Tensor:
    """Of a prompt's tokens, read in chunks."""
    serving = Serving(decoder(path), SMALL, coding=coding, step_tokens=7)
    scored = Sampling(top_logprobs=0)
    serving.submit(0, prompt(1, 60), scored, max_tokens=1, score_prompt=True)
    serving.drain()
    return torch.tensor([score.chosen for score in serving.scores[0]])


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "bloom"])
def test_logprobs_stay_near(family: str, coding: Coding, tmp_path: Path):
    """Also those of models that attend themselves, and with windows and soft caps.

    Random weights magnify what differs; values that have nothing to do with each other are further apart
    than their deviation.
    """
    path = save(tmp_path, family)
    wanted, found = logprobs(path, None), logprobs(path, coding)
    assert not torch.equal(found, wanted), "the codes are not used"
    assert (found - wanted).abs().mean() < {"int8": 0.1, "fp8": 0.2}[coding.name] * wanted.std()


def test_chunks_and_prefixes_make_no_difference(coding: Coding, tmp_path: Path):
    loaded = decoder(save(tmp_path, "llama"))
    serving = Serving(loaded, coding=coding)
    beginning = prompt(0, 40)
    for number in range(3):
        serving.submit(number, [*beginning, number + 5])
        serving.drain()
    assert serving.ends[2].cached_tokens > 0
    fresh = Serving(loaded, SMALL, coding=coding, step_tokens=5)
    fresh.submit(2, [*beginning, 7])
    assert fresh.drain()[2] == serving.tokens[2]


def test_helexa_tiny_says_the_same():
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS_DIR)
    loaded = decoder(WEIGHTS_DIR)
    asked = [[{"role": "user", "content": entry.question}] for entry in load_handbook().entries[::40]]
    chats = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    prompts = dict(enumerate(chats))
    options = {"max_tokens": 32, "vocab": loaded.vocab_size}
    wanted = texts(loaded, prompts, **options)
    for coding in CODINGS.values():
        assert texts(loaded, prompts, coding=coding, **options) == wanted


def load(path: Path, kv_dtype: str | None, configured: str = "auto") -> ResidentModel:
    pool = ModelPool(CPU, WorkerSettings(kv_mb=1, kv_dtype=configured))
    return pool.load("m", path, lambda _: None, kv_dtype=kv_dtype)


def test_twice_the_pages_fit(tmp_path: Path):
    path = save(tmp_path, "qwen3", head_dim=128, dtype=torch.bfloat16, max_position_embeddings=4096)
    plain, coded = load(path, None), load(path, "int8")
    assert coded.runner.shape.num_pages / plain.runner.shape.num_pages == pytest.approx(2, abs=0.1)
    assert (plain.kv_dtype, coded.kv_dtype) == ("bfloat16", "int8")
    assert load(path, None, "fp8").kv_dtype == "fp8"
    assert load(path, "auto", "fp8").kv_dtype == "bfloat16"


@pytest.mark.parametrize(("family", "why"), [("deepseek_v3", "latents"), ("openai-gpt", "the text itself")])
def test_what_must_be_exact_is_refused_by_name(family: str, why: str, tmp_path: Path):
    with pytest.raises(ModelLoadError, match=f"kv_dtype 'int8' .* hold {why}: load it with 'auto'") as error:
        load(save(tmp_path, family), "int8")
    assert error.value.code == "model_unsupported"
