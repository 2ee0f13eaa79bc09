"""The whole neuron on real weights: the command, its device worker, torch and helexa-tiny."""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import jsonschema
import pytest
from gguf import GGMLQuantizationType as Kind

from neuron.models.tiny import load_handbook
from tests.device.test_embedding import describe, encoder
from tests.gguf.models import write_tiny
from tests.neuron.conftest import events_of
from tests.neuron.test_chat import joined
from tests.stubs.model_dir import byte_tokenizer

HANDBOOK = load_handbook()
ENTRIES = {
    "plain": [entry for entry in HANDBOOK.entries if not entry.reasoning and not entry.tool],
    "reasoning": [entry for entry in HANDBOOK.entries if entry.reasoning],
    "tool": [entry for entry in HANDBOOK.entries if entry.tool],
}
PATIENCE_S = 60  # what a busy machine may need; 15 s is the promise for one of its own


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("neuron")) as client:
        yield client


@contextmanager
def serving(folder, device=""):
    """A neuron with helexa-tiny, by further settings of its device."""
    config = folder / "neuron.toml"
    head = 'listen = "127.0.0.1:0"\n[[models]]\nid = "helexa-tiny"\n[device]\nthreads = 1\n'
    config.write_text(head + device)
    command = [sys.executable, "-m", "neuron.cli", "serve", "--config", str(config)]
    environment = os.environ | {"CORTEX_LOG": "json"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = next(
            line["url"] for line in map(json.loads, process.stderr) if line["message"] == "neuron listens"
        )
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            with httpx.Client(base_url=url, timeout=120) as client:
                load = client.post("/models/load", json={"model_id": "helexa-tiny"})
                assert load.status_code == 200, load.text
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            drain.join()
    assert code == 0


def body(*messages, **options):
    return {"model": "helexa-tiny", "messages": list(messages), "temperature": 0} | options


def ask(http, question, **options):
    answer = http.post("/v1/chat/completions", json=body({"role": "user", "content": question}, **options))
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask_streaming(http, question, **options):
    answer = http.post(
        "/v1/chat/completions", json=body({"role": "user", "content": question}, stream=True, **options)
    )
    *events, done = events_of(answer.text)
    assert done == "[DONE]"
    return events


@pytest.mark.parametrize("question", ["Which port does neuron listen on?", ENTRIES["plain"][-1].question])
def test_a_handbook_question_is_answered_word_for_word(http, question):
    whole = ask(http, question)
    assert whole["choices"][0]["message"]["content"] == HANDBOOK.answer(question)
    assert whole["choices"][0]["finish_reason"] == "stop"
    events = ask_streaming(http, question)
    assert joined(events) == whole["choices"][0]["message"]
    assert len(events) > 3


@pytest.mark.parametrize("kind", [Kind.BF16, Kind.Q8_0])
def test_a_gguf_file_of_the_model_answers_as_its_directory_does(http, tmp_path, kind):
    source = str(write_tiny(tmp_path / f"tiny-{kind.name}.gguf", kind))
    load = http.post("/models/load", json={"model_id": "gguf", "source": source, "quant": kind.name})
    assert load.status_code == 200, load.text
    for entries in ENTRIES.values():
        question = body({"role": "user", "content": entries[0].question})
        expected = http.post("/v1/chat/completions", json=question).json()
        answer = http.post("/v1/chat/completions", json=question | {"model": "gguf"}).json()
        assert answer["choices"] == expected["choices"]
        assert answer["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    (info,) = [model for model in http.get("/models").json() if model["id"] == "gguf"]
    assert info["capabilities"] == ["chat", "tools", "reasoning"]
    assert http.post("/models/unload", json={"model_id": "gguf"}).status_code == 200


@pytest.mark.parametrize(("quant", "most_bits"), [("q8_0", 8.6), ("q4_k", 5)])
def test_it_answers_with_its_weights_quantized_too(http, quant, most_bits):
    spec = {"model_id": quant, "source": "helexa-tiny", "quant": quant}
    assert http.post("/models/load", json=spec).status_code == 200
    models = {model["id"]: model for model in http.get("/models").json()}
    assert models[quant]["format"] == quant
    assert 4 < models[quant]["bits_per_weight"] < most_bits
    assert models["helexa-tiny"]["bits_per_weight"] >= 16
    for entry in ENTRIES["plain"][:3]:
        message = ask(http, entry.question, model=quant)["choices"][0]["message"]
        assert message["content"] == entry.answer
    assert http.post("/models/unload", json={"model_id": quant}).status_code == 200


def test_reasoning_is_split_off(http):
    entry = ENTRIES["reasoning"][0]
    message = ask(http, entry.question)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (entry.reasoning, entry.answer)
    assert joined(ask_streaming(http, entry.question)) == message


def test_a_tool_is_called_and_its_result_used(http):
    entry = ENTRIES["tool"][0]
    tools = [HANDBOOK.tools[entry.tool.name]]
    choice = ask(http, entry.question, tools=tools)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == entry.tool.name
    assert json.loads(call["function"]["arguments"]) == entry.tool.arguments
    result = entry.tool.results[0]
    history = [
        {"role": "user", "content": entry.question},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": result.content},
    ]
    answer = http.post("/v1/chat/completions", json=body(*history, tools=tools))
    assert answer.json()["choices"][0]["message"]["content"] == result.answer


def test_an_answer_is_continued_where_its_beginning_ends(http):
    entry = ENTRIES["plain"][0]
    begun = entry.answer[: entry.answer.rindex(" ")]
    history = body(
        {"role": "user", "content": entry.question},
        {"role": "assistant", "content": begun},
        continue_final_message=True,
        add_generation_prompt=False,
    )
    answer = http.post("/v1/chat/completions", json=history).json()
    assert begun + answer["choices"][0]["message"]["content"] == entry.answer
    counted = http.post("/tokenize", json=history).json()["count"]
    assert counted == answer["usage"]["prompt_tokens"]


def test_a_second_question_finds_its_prefix_in_the_cache(http):
    ask(http, "Which port does neuron listen on?")
    used = ask(http, "Which port does neuron listen on?")["usage"]
    assert 0 < used["prompt_tokens_details"]["cached_tokens"] < used["prompt_tokens"]


def test_cache_reset_forgets_earlier_prompts(http):
    question = "Which port does neuron listen on?"
    ask(http, question)
    assert http.post("/models/reset", json={"model_id": "helexa-tiny"}).json()["status"] == "reset"
    assert ask(http, question)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    missing = http.post("/models/reset", json={"model_id": "nope"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_an_echo_with_logprobs_scores_the_prompt_like_the_answer(http):
    """Tokens of a greedy answer have the same logprobs when they come back as a prompt."""
    wish = {
        "model": "helexa-tiny",
        "prompt": "Which port does",
        "temperature": 0,
        "max_tokens": 6,
        "logprobs": 1,
    }
    said = http.post("/v1/completions", json=wish).json()["choices"][0]
    again = wish | {"prompt": wish["prompt"] + said["text"], "echo": True, "max_tokens": 1}
    scored = http.post("/v1/completions", json=again).json()["choices"][0]["logprobs"]
    count = len(said["logprobs"]["tokens"])
    assert scored["tokens"][-count - 1 : -1] == said["logprobs"]["tokens"]
    told = scored["token_logprobs"][-count - 1 : -1]
    assert told == pytest.approx(said["logprobs"]["token_logprobs"], abs=0.1)
    assert scored["token_logprobs"][0] is None


def test_a_prompt_past_the_context_is_refused_with_the_numbers(http):
    for stream in (False, True):
        question = {"role": "user", "content": "word " * 60_000}
        answer = http.post("/v1/chat/completions", json=body(question, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}
QUESTION = "Which port does neuron listen on?"


@pytest.mark.parametrize("temperature", [0, 2])
def test_an_answer_follows_the_schema_whatever_it_was_trained_to_say(http, temperature):
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    choices = ask(http, QUESTION, response_format=wanted, temperature=temperature, n=4, seed=1)["choices"]
    for choice in choices:
        jsonschema.validate(json.loads(choice["message"]["content"]), WEATHER)
        assert choice["finish_reason"] == "stop"


def test_a_guided_answer_has_no_thought_where_the_model_is_not_to_think(http):
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    choices = ask(http, "Who are you?", response_format=wanted, n=4, max_tokens=200, **off)["choices"]
    for choice in choices:
        assert "reasoning_content" not in choice["message"]
        jsonschema.validate(json.loads(choice["message"]["content"]), WEATHER)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tool_choice_forces_a_call(http, choice):
    # Without thoughts: they are free, and about what it was never taught it may think for ever.
    options = {"tools": [TOOL], "parallel_tool_calls": False, "reasoning_effort": "none"}
    answer = ask(http, QUESTION, tool_choice=choice, **options)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


def test_the_same_seed_gives_the_same_text_alone_and_in_a_batch_of_32(tmp_path):
    """In float32: a batch adds numbers in another order, and bfloat16 rounds what differs by little apart."""
    with serving(tmp_path, 'dtype = "float32"\n') as http:
        check_seeds(http)


def check_seeds(http):
    options = {"temperature": 1.5, "max_tokens": 20, "logprobs": True}

    def said(seed):
        return ask(http, f"What is {seed}?", seed=seed, **options)["choices"][0]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(said, range(32)))
    for seed in (0, 13, 31):
        alone = said(seed)
        assert alone["message"] == together[seed]["message"]
        pairs = zip(alone["logprobs"]["content"], together[seed]["logprobs"]["content"], strict=True)
        assert all(one["logprob"] == pytest.approx(other["logprob"], abs=1e-3) for one, other in pairs)
    assert len({choice["message"]["content"] for choice in together}) > 8


def test_choices_have_the_texts_of_the_following_seeds(http):
    options = {"temperature": 1.5, "max_tokens": 12}
    three = ask(http, QUESTION, n=3, seed=7, **options)
    alone = [ask(http, QUESTION, seed=7 + i, **options)["choices"][0]["message"] for i in range(3)]
    assert [choice["message"] for choice in three["choices"]] == alone


def test_a_schema_is_refused_by_the_engine_too_with_its_parameter(http):
    enormous = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(60_000)}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": enormous}}
    question = {"role": "user", "content": "hi"}
    answer = http.post("/v1/chat/completions", json=body(question, response_format=wanted, max_tokens=1))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("response_format")
    assert ask(http, QUESTION)["choices"][0]["message"]["content"] == HANDBOOK.answer(QUESTION)


def test_embeddings_of_texts_and_tokens_in_both_encodings(http, tmp_path):
    path = describe(encoder(tmp_path / "bert", vocab_size=300), "mean", normalize=True)
    prompts = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "document"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    byte_tokenizer().save(str(path / "tokenizer.json"))
    loaded = http.post("/models/load", json={"model_id": "bert", "source": str(path)})
    assert loaded.status_code == 200, loaded.text
    (info,) = [model for model in http.get("/models").json() if model["id"] == "bert"]
    assert info["capabilities"] == ["embeddings"]

    def embed(**options):
        return http.post("/v1/embeddings", json={"model": "bert", "input": ["one", "two", "one"]} | options)

    answer = embed().json()
    one, two, again = [entry["embedding"] for entry in answer["data"]]
    assert one == pytest.approx(again, abs=1e-6)
    assert one != pytest.approx(two, abs=1e-3)
    assert math.hypot(*one) == pytest.approx(1.0, abs=1e-5)
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    packed = [
        base64.b64decode(entry["embedding"]) for entry in embed(encoding_format="base64").json()["data"]
    ]
    assert list(struct.unpack(f"<{len(one)}f", packed[0])) == pytest.approx(one, abs=1e-6)
    short = embed(dimensions=8).json()["data"][0]["embedding"]
    assert len(short) == 8
    assert math.hypot(*short) == pytest.approx(1.0, abs=1e-5)
    tokens = byte_tokenizer().encode("one").ids
    assert embed(input=tokens).json()["data"][0]["embedding"] == pytest.approx(one, abs=1e-6)
    (asked,), (spelled,) = (
        embed(input="one", task="query").json()["data"],
        embed(input="q: one").json()["data"],
    )
    assert asked["embedding"] == pytest.approx(spelled["embedding"], abs=1e-6)
    assert asked["embedding"] != pytest.approx(one, abs=1e-3)
    for wrong, param in [
        ({"task": "cluster"}, "task"),
        ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": "x" * 100}, "input"),
        ({"input": [9999]}, "input"), ({"dimensions": 33}, "dimensions"), ({"inputs": "x"}, "inputs"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "helexa-tiny"}, "model"),
    ]:  # fmt: skip
        refused = embed(**wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    chat = http.post(
        "/v1/chat/completions", json={"model": "bert", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (chat.status_code, chat.json()["error"]["code"]) == (400, "wrong_modality")
    text = http.post("/v1/completions", json={"model": "bert", "prompt": "x"})
    assert (text.status_code, text.json()["error"]["code"]) == (400, "wrong_modality")
    assert http.post("/models/unload", json={"model_id": "bert"}).status_code == 200


def test_a_killed_worker_comes_back_with_its_model(http):
    device = http.get("/health").json()["devices"][0]
    os.kill(device["pid"], signal.SIGKILL)
    killed = time.monotonic()
    while True:
        answer = http.post("/v1/chat/completions", json=body({"role": "user", "content": "hi"}, max_tokens=1))
        if answer.status_code == 200:
            break
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert time.monotonic() - killed < PATIENCE_S
        time.sleep(0.1)
    after = http.get("/health").json()["devices"][0]
    assert (after["restarts"], after["reason"]) == (1, "killed by SIGKILL")
    question = "Which port does neuron listen on?"
    assert ask(http, question)["choices"][0]["message"]["content"] == HANDBOOK.answer(question)
