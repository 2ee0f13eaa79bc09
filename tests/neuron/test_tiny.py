"""The whole neuron on real weights: the command, its device worker, torch and helexa-tiny."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from neuron.models.tiny import load_handbook
from tests.neuron.conftest import events_of
from tests.neuron.test_chat import joined

HANDBOOK = load_handbook()
ENTRIES = {
    "plain": [entry for entry in HANDBOOK.entries if not entry.reasoning and not entry.tool],
    "reasoning": [entry for entry in HANDBOOK.entries if entry.reasoning],
    "tool": [entry for entry in HANDBOOK.entries if entry.tool],
}
PATIENCE_S = 60  # what a busy machine may need; 15 s is the promise for one of its own


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    config = tmp_path_factory.mktemp("neuron") / "neuron.toml"
    config.write_text('listen = "127.0.0.1:0"\n[[models]]\nid = "helexa-tiny"\n[device]\nthreads = 1\n')
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


def test_reasoning_comes_apart(http):
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


def test_a_second_question_finds_its_prefix_in_the_cache(http):
    ask(http, "Which port does neuron listen on?")
    used = ask(http, "Which port does neuron listen on?")["usage"]
    assert 0 < used["prompt_tokens_details"]["cached_tokens"] < used["prompt_tokens"]


def test_a_prompt_past_the_context_is_refused_with_the_numbers(http):
    for stream in (False, True):
        question = {"role": "user", "content": "word " * 60_000}
        answer = http.post("/v1/chat/completions", json=body(question, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")


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
