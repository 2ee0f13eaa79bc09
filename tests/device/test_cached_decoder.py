"""Decoders that attend themselves, over keys or over the text itself: pages serve them, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from neuron.models.cached_decoder import CachedDecoder
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder
from neuron.models.recomputing_decoder import RecomputingDecoder
from neuron.models.recurrent_decoder import RecurrentDecoder
from neuron.pipe import Finished, Sampling
from neuron.step import CacheShape
from tests.device.serving import Serving, alone, check_preemption, check_small_chunks, decoder, prompt
from tests.device.zoo import VOCAB, build, save

KINDS = {
    "bloom": CachedDecoder,
    "gptj": CachedDecoder,
    "bart": CachedDecoder,
    "openai-gpt": RecomputingDecoder,
}
TIGHT = CacheShape(num_pages=20, page_size=8, num_slots=8, context=128)


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(family: str, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    made = decoder(save(tmp_path_factory.mktemp("model"), family))
    assert type(made) is KINDS[family]
    return made


def test_a_preemption_does_not_change_a_text(loaded: AnyDecoder):
    check_preemption(loaded, TIGHT)


def test_small_chunks_come_to_the_same_text(loaded: AnyDecoder):
    check_small_chunks(loaded)


def test_a_prefix_is_shared(loaded: AnyDecoder):
    serving = Serving(loaded)
    first = prompt(1, 50)
    serving.submit(0, first)
    serving.drain()
    turn = [*first, *serving.tokens[0], *prompt(2, 9)]
    serving.submit(1, turn)
    assert serving.drain()[1] == alone(loaded, turn)
    end = serving.ends[1]
    assert isinstance(end, Finished)
    assert end.cached_tokens == 72


def test_a_prompt_is_scored_as_transformers_scores_it(family: str, loaded: AnyDecoder):
    serving = Serving(loaded)
    tokens = prompt(4, 20)
    serving.submit(0, tokens, Sampling(top_logprobs=0), max_tokens=0, score_prompt=True)
    serving.drain()
    with torch.inference_mode():
        logits = build(family)(torch.tensor([tokens])).logits[0].log_softmax(-1)
    wanted = [float(logits[at, token]) for at, token in enumerate(tokens[1:])]
    assert [score.chosen for score in serving.scores[0]] == pytest.approx(wanted, abs=1e-4)


def test_tokens_survive_pages_of_half_precision(tmp_path: Path):
    path = save(tmp_path, "openai-gpt", vocab_size=70_000)
    serving = Serving(decoder(path, "bfloat16"), vocab=70_000)
    tokens = [1, 255, 256, 65_535, 65_536, 69_999]
    serving.submit(0, tokens, max_tokens=1)
    reference = build("openai-gpt", vocab_size=70_000).to(torch.bfloat16)
    assert serving.drain()[0] == [int(reference(torch.tensor([tokens])).logits[0, -1].argmax())]


def test_a_class_that_remembers_in_another_way_is_refused(tmp_path: Path):
    config = transformers.XLNetConfig(vocab_size=VOCAB, d_model=64, n_layer=2, n_head=4, d_inner=96)
    transformers.XLNetLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="it remembers by mems, a way of its own") as raised:
        decoder(tmp_path)
    assert raised.value.code == "model_unsupported"


@pytest.mark.parametrize("is_decoder", [False, True])
def test_an_encoder_writes_where_its_configuration_says_that_it_is_a_decoder(
    tmp_path: Path, *, is_decoder: bool
):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.BertConfig(vocab_size=VOCAB, is_decoder=is_decoder, **sizes)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    if is_decoder:
        assert len(alone(decoder(tmp_path), prompt(0, 9))) == 24
    else:
        with pytest.raises(ModelLoadError, match="bert reads in both directions"):
            decoder(tmp_path)


def test_a_whole_state_has_its_own_decoder(tmp_path: Path):
    assert isinstance(decoder(save(tmp_path, "rwkv")), RecurrentDecoder)
