"""Pairs of texts, scored by models that rank in a running neuron."""

from __future__ import annotations

import json

import pytest
import transformers

from neuron.models.yes_no_ranker import pair_template
from neuron.text.template import ChatTemplate
from tests.device.test_ranking import saved
from tests.neuron.test_tiny import serving
from tests.stubs.model_dir import byte_tokenizer


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("neuron")) as client:
        yield client


def test_pairs_are_scored_and_ranked(http, tmp_path):
    saved(tmp_path / "ranker", "bert", vocab_size=300)
    byte_tokenizer().save(str(tmp_path / "ranker" / "tokenizer.json"))
    loaded = http.post("/models/load", json={"model_id": "ranker", "source": str(tmp_path / "ranker")})
    assert loaded.status_code == 200, loaded.text
    (info,) = [model for model in http.get("/models").json() if model["id"] == "ranker"]
    assert info["capabilities"] == ["rerank"]

    def rank(**options):
        asked = {"model": "ranker", "query": "q", "documents": ["one", "two", {"text": "three"}]}
        return http.post("/v1/rerank", json=asked | options)

    results = rank().json()["results"]
    scores = {result["index"]: result["relevance_score"] for result in results}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert {result["document"]["text"] for result in results} == {"one", "two", "three"}
    (best,) = rank(top_n=1, return_documents=False).json()["results"]
    assert best == {"index": results[0]["index"], "relevance_score": results[0]["relevance_score"]}
    asked = {"model": "ranker", "text_1": "q", "text_2": ["one", "two", "three"]}
    scored = http.post("/v1/score", json=asked).json()
    assert [entry["score"] for entry in scored["data"]] == pytest.approx([scores[at] for at in range(3)])
    long = ["one", "x" * 100]
    assert len(rank(documents=long, truncate_prompt_tokens=-1).json()["results"]) == 2
    for wrong, param in [
        ({"documents": []}, "documents"), ({"documents": ["x"] * 1001}, "documents"),
        ({"query": ""}, "query"),
        ({"documents": ["x", ""]}, "documents[1]"), ({"documents": long}, "documents[1]"),
        ({"model": "helexa-tiny"}, "model"), ({"top": 1}, "top"),
    ]:  # fmt: skip
        refused = rank(**wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    refused = http.post("/v1/score", json=asked | {"text_1": ["a", "b"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text_1")
    refused = http.post("/v1/embeddings", json={"model": "ranker", "input": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_modality")
    assert http.post("/models/unload", json={"model_id": "ranker"}).status_code == 200


def test_a_reranker_without_modules_reads_pairs_by_its_template(http, tmp_path):
    path = tmp_path / "Qwen3-Reranker-tiny"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Qwen3Config(vocab_size=300, head_dim=16, num_key_value_heads=1, **sizes)
    transformers.Qwen3ForCausalLM(config).save_pretrained(path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"])
    written = json.loads(tokenizer.to_str())
    written["model"]["vocab"] |= {"yes": 290, "no": 291}
    (path / "tokenizer.json").write_text(json.dumps(written))
    loaded = http.post("/models/load", json={"model_id": "qwen", "source": str(path)})
    assert loaded.status_code == 200, loaded.text
    (info,) = [model for model in http.get("/models").json() if model["id"] == "qwen"]
    assert info["capabilities"] == ["rerank"]
    assert any("by its name" in warning for warning in info["warnings"])
    asked = {"model": "qwen", "query": "q", "documents": ["one", "two"]}
    answer = http.post("/v1/rerank", json=asked).json()
    prompt = ChatTemplate(str(pair_template(path)), {}).render(
        [{"role": "query", "content": "q"}, {"role": "document", "content": "one"}]
    )
    assert answer["usage"]["prompt_tokens"] == 2 * len(tokenizer.encode(prompt).ids)
    assert all(0 < result["relevance_score"] < 1 for result in answer["results"])
    most = len(tokenizer.encode(prompt).ids) + 7
    for long in ("x" * 500, "é" * 500):  # the latter takes two tokens for each character
        short = http.post("/v1/rerank", json=asked | {"documents": [long], "truncate_prompt_tokens": most})
        assert most - 1 <= short.json()["usage"]["prompt_tokens"] <= most
    assert http.post("/models/unload", json={"model_id": "qwen"}).status_code == 200
