"""Scores of pairs equal those of transformers for one pair at a time, without padding."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from neuron.models.checkpoint import ModelLoadError
from neuron.models.embedder import Embedder
from neuron.models.ranker import load_ranker
from neuron.models.reading import read_checkpoint
from neuron.models.sentence_modules import Ranking, read_sentence_modules, sentence_warnings
from neuron.models.weights import LoadOptions
from neuron.models.yes_no_ranker import pair_template
from neuron.step import EmbeddingPlan, EncodedText
from neuron.text.template import ChatTemplate
from tests.device.zoo import VOCAB

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "num_labels": 1, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip
MORE = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
}
KINDS = ("bert", "xlm-roberta", "distilbert", "deberta-v2", "mpnet", "modernbert", "albert", "qwen3")
PAIRS = [EncodedText(tuple(range(3, 3 + n)), second=n // 2) for n in (4, 17, 40, 9, 17)]


def saved(path: Path, kind: str, **changes: Any) -> Any:
    """The reference, which is in `path` too."""
    torch.manual_seed(3)
    more = MORE.get(kind, {})
    config = transformers.CONFIG_MAPPING[kind](**SIZES | more | changes)
    model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and ("classifier" in name or "score" in name or "pre_" in name):
            torch.nn.init.normal_(parameter, std=0.3)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(path)
    return model


def ranker(path: Path) -> Embedder:
    checkpoint = read_checkpoint(path)
    ranking = read_sentence_modules(checkpoint)
    assert isinstance(ranking, Ranking)
    return load_ranker(checkpoint, ranking, LoadOptions(torch.float32, torch.device("cpu"), lambda _: None))


def scores(loaded: Embedder) -> torch.Tensor:
    rows = loaded.run(EmbeddingPlan(tuple(PAIRS)))
    return torch.tensor([torch.frombuffer(bytearray(row), dtype=torch.float32).item() for row in rows])


@torch.inference_mode()
def plain(model: Any, *, types: bool = True) -> torch.Tensor:
    found = []
    for pair in PAIRS:
        told = {"attention_mask": torch.ones(1, len(pair.tokens), dtype=torch.int64)}
        if types and "token_type_ids" in inspect.signature(model.forward).parameters:
            told["token_type_ids"] = torch.tensor([pair.types])
        found.append(model(input_ids=torch.tensor([pair.tokens]), **told).logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_transformers(tmp_path, kind):
    model = saved(tmp_path, kind)
    wanted = torch.sigmoid(plain(model))
    assert wanted.std() > 0.01
    assert torch.allclose(scores(ranker(tmp_path)), wanted, atol=1e-5)


def test_a_configuration_names_another_activation(tmp_path):
    model = saved(
        tmp_path, "bert", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}
    )
    assert torch.allclose(scores(ranker(tmp_path)), plain(model), atol=1e-5)


def test_types_are_told_if_the_tokenizer_tells_them(tmp_path):
    model = saved(tmp_path, "bert")
    (tmp_path / "tokenizer_config.json").write_text('{"model_input_names": ["input_ids", "attention_mask"]}')
    assert torch.allclose(scores(ranker(tmp_path)), torch.sigmoid(plain(model, types=False)), atol=1e-5)


def test_a_decoder_ranks_by_what_it_would_say(tmp_path):
    torch.manual_seed(3)
    config = transformers.Qwen3Config(**SIZES | MORE["qwen3"])
    model = transformers.Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    kinds = [("", "base.modules.Transformer"), ("1_LogitScore", "cross_encoder.modules.LogitScore")]
    modules = [{"path": folder, "type": f"sentence_transformers.{kind}"} for folder, kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_LogitScore").mkdir()
    file = tmp_path / "1_LogitScore" / "config.json"
    file.write_text('{"true_token_id": 7, "false_token_id": 9}')
    with torch.inference_mode():
        last = torch.stack([model(input_ids=torch.tensor([p.tokens])).logits[0, -1] for p in PAIRS])
    assert torch.allclose(scores(ranker(tmp_path)), torch.sigmoid(last[:, 7] - last[:, 9]), atol=1e-5)
    file.write_text('{"true_token_id": "yes"}')
    with pytest.raises(ModelLoadError, match="true_token_id") as caught:
        ranker(tmp_path)
    assert str(file) in caught.value.message


def test_a_reranker_is_known_by_its_name_and_says_yes_or_no(tmp_path):
    torch.manual_seed(3)
    path = tmp_path / "models--Qwen--Qwen3-Reranker-0.6B" / "snapshots" / "1"
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES | MORE["qwen3"])).eval()
    model.save_pretrained(path)
    (path / "tokenizer.json").write_text('{"model": {"vocab": {"no": 9, "yes": 7}}}')
    with torch.inference_mode():
        last = torch.stack([model(input_ids=torch.tensor([p.tokens])).logits[0, -1] for p in PAIRS])
    assert torch.allclose(scores(ranker(path)), torch.sigmoid(last[:, 7] - last[:, 9]), atol=1e-5)
    (warning,) = sentence_warnings(path)
    assert "by its name" in warning
    (path / "tokenizer.json").write_text('{"model": {"vocab": {"no": 9}}}')
    with pytest.raises(ModelLoadError, match="yes and no"):
        ranker(path)


def test_a_reranker_reads_pairs_as_its_card_says(tmp_path):
    path = tmp_path / "qwen3-reranker"
    path.mkdir()
    config = path / "config.json"
    for name in ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"):
        config.write_text(json.dumps({"architectures": [name]}))
        template = ChatTemplate(str(pair_template(path)), {})
        assert template.ranks_pairs
        pair = [{"role": "query", "content": " a?"}, {"role": "document", "content": "b\n"}]
        assert template.render(pair) == (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
            'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
            "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer "
            "the query\n<Query>:  a?\n<Document>: b\n<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
    config.write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert pair_template(path) is None
    config.write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    (path / "modules.json").write_text("[]")
    assert pair_template(path) is None
    assert pair_template(tmp_path / "qwen3") is None


def test_a_model_of_several_labels_ranks_nothing(tmp_path):
    saved(tmp_path, "bert", num_labels=3)
    with pytest.raises(ModelLoadError, match="3 labels") as caught:
        ranker(tmp_path)
    assert caught.value.code == "model_unsupported"
