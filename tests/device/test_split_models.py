"""A model that is split over ranks gives the texts that it gives on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from neuron.device.collective import GroupLostError, sums_are_recorded
from neuron.device.state_pool import bytes_per_slot
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.reading import read_checkpoint
from neuron.models.tensor_parallel.checkpoint import split_checkpoint
from neuron.models.tensor_parallel.parts import find_parts
from neuron.models.tensor_parallel.rank import RankDecoder
from neuron.models.tensor_parallel.sizes import Rank
from neuron.models.weights import LoadOptions
from neuron.pipe import Sampling
from neuron.split_heads import family_problem
from tests.device.ranks import group, links, part
from tests.device.serving import Serving, decoder, prompt
from tests.device.zoo import save
from tests.gguf.models import build, write

recorded = pytest.mark.skipif(not sums_are_recorded(), reason="ext was not built")
WIDE = {"head_dim": 16}  # attention of one token takes whole vectors
PENALTY = Sampling(repetition_penalty=1.5)
SPLIT = (
    "qwen2",  # biases, a head tied to the embedding
    "qwen2_moe",  # a gated MLP beside experts, of another width
    "gpt_oss",  # sinks, experts with inputs before outputs
    "deepseek_v3",  # latents, which every rank caches
    "olmoe",  # norms over all heads: attention on every rank
    "qwen3_next",  # a delta rule by its heads, joined by those of keys
    "qwen3_5_text",  # the same, in sections
    "bamba",  # a state space by its heads, whose norm is over those of all ranks
    "phi3",  # query, key and value in one
    "llama4_text",  # experts with inputs before outputs
    "granitemoehybrid",  # experts that files have under another name
    "nemotron_h",  # every part of a layer under one name
    "falcon_h1",  # a state space by its heads, whose group all have
    "hy_v4",  # gates and sinks of attention that files have under other names
    "lfm2",  # short convolutions by channels
    "lfm2_moe",  # and experts
    "gemma2",  # transformers' own code
    "jamba",  # the same, with experts, and states by channels
    "mamba",  # such states alone
    "mamba2",  # groups of heads
    "falcon_mamba",  # channels, and norms of what projections sum up
    "hunyuan_v1_dense",  # plans of ours for classes that declare none
    "lfm3",
)


def served(serving: Serving, sampling: Sampling = PENALTY, max_tokens: int = 12) -> dict[int, list[int]]:
    for length in (3, 21, 70):  # one longer than a step
        serving.submit(length, prompt(length, length), sampling, max_tokens=max_tokens)
    return serving.drain()


@pytest.mark.parametrize("family", SPLIT)
def test_two_ranks_write_what_one_device_writes(family: str, tmp_path: Path):
    path = save(tmp_path / "m", family)
    with links(2) as made:
        assert served(group([part(path, rank, 2) for rank in range(2)], made)) == served(
            Serving(decoder(path))
        )


def test_a_group_of_heads_on_two_ranks_is_normed_as_one(tmp_path: Path):
    path = save(tmp_path / "m", "mamba2", n_groups=1)
    with links(2) as made:
        assert served(group([part(path, rank, 2) for rank in range(2)], made)) == served(
            Serving(decoder(path))
        )


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each decode step that was computed rather than replayed, of all ranks."""
    found: list[int] = []
    compute = RankDecoder.compute

    def counted(self: RankDecoder, *inputs: torch.Tensor) -> torch.Tensor:
        found.append(len(inputs[0]))
        return compute(self, *inputs)

    monkeypatch.setattr(RankDecoder, "compute", counted)
    return found


@recorded
@pytest.mark.parametrize("family", ["qwen3", "lfm2"])
def test_decode_steps_of_ranks_are_replayed_with_their_sums(family: str, tmp_path: Path, computed: list[int]):
    path = save(tmp_path / "m", family, **(WIDE if family == "qwen3" else {}))
    with links(2) as made:
        texts = served(group([part(path, rank, 2) for rank in range(2)], made), max_tokens=40)
    assert sorted(computed) == [1, 1, 3, 3]  # once for each size of batch on each rank
    assert texts == served(Serving(decoder(path)), max_tokens=40)


@recorded
def test_decode_steps_with_spread_experts_are_replayed(tmp_path: Path, computed: list[int]):
    path = save(tmp_path / "m", "qwen3_moe", **WIDE, **SPREAD["qwen3_moe"])
    with links(2) as made:
        parts = [part(path, rank, 2, quant="q8_0") for rank in range(2)]
        texts = served(group(parts, made), max_tokens=40)
    assert sorted(computed) == [1, 1, 3, 3]
    assert texts == served(Serving(quantized(path, "q8_0")), max_tokens=40)


@recorded
def test_a_replay_whose_group_ends_fails_the_step(tmp_path: Path):
    path = save(tmp_path / "m", "qwen3", **WIDE)
    with links(2) as made:
        serving = group([part(path, rank, 2) for rank in range(2)], made)
        serving.submit(0, prompt(1, 5))
        for _ in range(4):
            serving.step()
        made[1].fail(RuntimeError("no more"))
        with pytest.raises(GroupLostError, match="rank 1 failed: no more"):
            serving.step()


@pytest.mark.parametrize("family", ["qwen3_5_text", "nemotron_h"])
def test_recurrences_are_split_by_heads_where_they_can_be(family: str, tmp_path: Path):
    whole = decoder(save(tmp_path / "m", family))
    for ranks, divisor in ((2, 2), (4, 1)):  # there are two heads of keys, or two groups
        states = part(tmp_path / "m", 0, ranks).states
        assert bytes_per_slot(states) * divisor == bytes_per_slot(whole.states)


@pytest.mark.parametrize("family", ["lfm2", "lfm2_moe"])
def test_short_convolutions_are_split_by_channels(family: str, tmp_path: Path):
    whole = decoder(save(tmp_path / "m", family))
    assert bytes_per_slot(part(tmp_path / "m", 3, 4).states) * 4 == bytes_per_slot(whole.states)


@pytest.mark.parametrize("family", ["bamba", "granitemoehybrid"])
def test_heads_that_are_normed_together_are_split_too(family: str, tmp_path: Path):
    whole = decoder(save(tmp_path / "m", family))
    states = part(tmp_path / "m", 0, 2).states
    assert bytes_per_slot(states) < 0.6 * bytes_per_slot(whole.states)  # both have the keys of the only group


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_ranks_share_key_heads_where_there_are_fewer(family: str, tmp_path: Path):
    path = save(tmp_path / "m", family)
    parts = [part(path, rank, 4) for rank in range(4)]
    assert {each.layers[0].kv_heads for each in parts} == {1}
    with links(4) as made:
        assert served(group(parts, made)) == served(Serving(decoder(path)))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.8, seed=5),
        Sampling(temperature=0.8, top_k=7, top_p=0.9, seed=5),
        Sampling(temperature=1.5, top_p=0.8, min_p=0.02, seed=7),
        Sampling(top_logprobs=3),
    ],
)
def test_sampling_is_that_of_one_device(sampling: Sampling, llama: Path):
    with links(2) as made:
        assert served(group([part(llama, rank, 2) for rank in range(2)], made), sampling) == served(
            Serving(decoder(llama)), sampling
        )


@pytest.mark.parametrize("quant", ["q8_0", "int4", "q4_k"])
def test_weights_are_split_between_their_blocks(quant: str, tmp_path: Path):
    path = save(tmp_path / "m", hidden_size=256, intermediate_size=544, num_attention_heads=8, head_dim=64)
    parts = [part(path, rank, 2, quant=quant) for rank in range(2)]
    with links(2) as made:
        texts = served(group(parts, made))
    assert texts == served(Serving(quantized(path, quant)))


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_blocks_of_files_are_split_as_they_are(name: str, tmp_path: Path):
    path = tmp_path / "m.gguf"
    write(path, name, build(name, num_attention_heads=8, intermediate_size=512), Kind.Q4_K)
    with links(2) as made:
        texts = served(group([part(path, rank, 2) for rank in range(2)], made))
    assert texts == served(Serving(decoder(path)))


def test_heads_of_half_a_block_are_refused(tmp_path: Path):
    path = tmp_path / "m.gguf"
    write(path, "llama", build("llama", intermediate_size=512), Kind.Q4_K)
    with pytest.raises(ModelLoadError, match="in blocks of 256 inputs, 64 for a head") as refused:
        split_checkpoint(read_checkpoint(path), Rank(0, 2))
    assert refused.value.code == "model_unsupported"


def quantized(path: Path, quant: str) -> AnyDecoder:
    checkpoint = in_situ(read_checkpoint(path), quant, decoder_class)
    return load_decoder(checkpoint, LoadOptions(torch.float32, torch.device("cpu"), lambda _: None))


def test_bfloat16_logits_are_within_the_error_of_reordered_sums(llama: Path):
    """Sums of halves are rounded once more than whole ones."""
    scored = Sampling(top_logprobs=0)

    def logprobs(serving: Serving) -> torch.Tensor:
        for number in range(4):
            serving.submit(number, prompt(number, 60), scored, max_tokens=0, score_prompt=True)
        serving.drain()
        return torch.tensor([each.chosen for number in range(4) for each in serving.scores[number]])

    with links(2) as made:
        split = logprobs(group([part(llama, rank, 2, "bfloat16") for rank in range(2)], made))
    whole = logprobs(Serving(decoder(llama, "bfloat16")))
    exact = logprobs(Serving(decoder(llama)))
    assert (split - exact).square().mean() < 2 * (whole - exact).square().mean() + 1e-6


SPREAD = {  # with a width of one block
    "qwen3_moe": {"moe_intermediate_size": 32},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},  # which is split
    "mixtral": {"intermediate_size": 32},
    "gpt_oss": {"intermediate_size": 32},  # biases
}


@pytest.mark.parametrize("family", SPREAD)
def test_experts_are_spread_where_their_width_cannot_be_cut(family: str, tmp_path: Path):
    path = save(tmp_path / "m", family, **SPREAD[family])
    parts = [part(path, rank, 2, quant="q8_0") for rank in range(2)]
    assert [each.part.experts for each in parts] == [range(2), range(2, 4)]
    with links(2) as made:
        assert served(group(parts, made)) == served(Serving(quantized(path, "q8_0")))


def test_experts_that_can_be_neither_split_nor_spread_are_refused(tmp_path: Path):
    path = save(tmp_path / "own", "phimoe", intermediate_size=32)
    with pytest.raises(ModelLoadError, match="too narrow to be split, and spread by our own decoder alone"):
        part(path, 0, 2, quant="q8_0")
    path = save(tmp_path / "shared", "deepseek_v3", moe_intermediate_size=32)
    with pytest.raises(ModelLoadError, match="is stored in blocks of 32"):
        part(path, 0, 2, quant="q8_0")


def test_experts_of_a_file_are_spread_with_their_blocks(tmp_path: Path):
    path = tmp_path / "m.gguf"
    write(path, "mixtral", build("mixtral", num_attention_heads=8, intermediate_size=256), Kind.Q4_K)
    parts = [part(path, rank, 2) for rank in range(2)]
    assert parts[1].part.experts == range(2, 4)
    with links(2) as made:
        assert served(group(parts, made)) == served(Serving(decoder(path)))


# --- what cannot be split ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "ranks", "named"),
    [
        (
            "llama",
            {},
            3,
            "num_attention_heads is 4, which tensor_parallel 3 does not divide; use one of 1, 2, 4",
        ),
        (
            "llama",
            {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3},
            2,
            "num_key_value_heads is 3",
        ),
        (
            "llama",
            {"intermediate_size": 3},
            4,
            "intermediate_size is 3, which tensor_parallel 4",
        ),
        ("mamba", {}, 5, "its states are not split over 5 devices"),
        ("bloom", {}, 2, "declares no plan for tensor parallelism; load it without tensor_parallel"),
        ("longcat_flash", {}, 2, "moe_identity_expert"),
    ],
)
def test_what_cannot_be_split_is_refused(
    family: str, changes: dict[str, int], ranks: int, named: str, tmp_path: Path
):
    path = save(tmp_path / "m", family, **changes)
    with pytest.raises(ModelLoadError, match=named) as refused:
        split_checkpoint(read_checkpoint(path), Rank(0, ranks))
    assert refused.value.code == "model_unsupported"
    assert str(path / "config.json") in refused.value.message


def test_profiles_of_families_that_are_not_split_are_known(tmp_path: Path):
    """`cortex check` has no transformers to ask."""
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if (config := default_config(kind)) is None:
            continue
        try:
            find_parts(config, tmp_path)
        except ModelLoadError:
            assert family_problem(config.model_type), config.model_type
        else:
            assert not family_problem(config.model_type), config.model_type


def default_config(model_type: str) -> Any:
    """The part for text of a family's configuration; None of a family that has no default."""
    try:
        return CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    except StrictDataclassError:
        return None


def test_a_class_that_cannot_be_built_in_part_is_refused(tmp_path: Path):
    path = save(tmp_path / "m", "minimax")
    with pytest.raises(ModelLoadError, match="cannot be built in part") as refused:
        part(path, 0, 2)
    assert refused.value.code == "model_unsupported"
