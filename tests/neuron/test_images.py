"""A neuron with a vision model: a real worker and tiny random weights."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import torch

from tests.device.test_vision import opened
from tests.device.vision_models import IMAGE, KINDS, build, picture, save
from tests.neuron.conftest import Neuron, config, neuron_with

WORKER = (sys.executable, "-m", "neuron.worker")
OTHER_TOKENS = 4  # user w1 … w2 assistant
# Gemma 3: 16, one before and one after; Idefics3: 5 tiles of 4, 5 names, 6 around; Qwen3-VL: 3 x 2.
IMAGE_TOKENS = {"gemma3": 18, "idefics3": 31, "llava": 16, "qwen3_vl": 6}  # of picture(1)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeing(kind: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Neuron]:
    path = save(tmp_path_factory.mktemp("vision") / "model", kind)
    device = {"threads": 1, "memory_mb": 2000, "kv_mb": 16}
    async with neuron_with(config(max_images=3, device=device), worker=WORKER) as running:
        answer = await running.load(path)
        assert answer.status_code == 200, answer.text
        yield running


def url(data: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}", "detail": "high"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat(*content: Any, **options: Any) -> dict[str, Any]:
    message = {"role": "user", "content": list(content)}
    return {"model": "m", "messages": [message], "max_tokens": 8, "temperature": 0} | options


async def ask(neuron: Neuron, body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
    answer = await neuron.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_vision_model_has_the_capability(seeing: Neuron):
    assert "vision" in (await seeing.models())["m"]["capabilities"]


async def test_answer_to_an_image_equals_that_of_transformers(seeing: Neuron, kind: str):
    reference, processor = build(kind)
    for number in (1, 2):
        body = chat(text("w1"), url(picture(number)), text("w2"), ignore_eos=True)
        said = (await ask(seeing, body))["choices"][0]["message"]["content"]
        prompt = f"user w1 {processor.image_token} w2 assistant"
        inputs = processor(text=prompt, images=opened(picture(number)), return_tensors="pt")
        with torch.inference_mode():
            out = reference.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
        wanted = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said.split() == wanted.split()


async def test_usage_and_tokenize_count_the_images_placeholders(seeing: Neuron, kind: str):
    body = chat(text("w1"), url(picture(1)), text("w2"))
    used = (await ask(seeing, body))["usage"]["prompt_tokens"]
    processor = build(kind)[1]
    shown = processor(text=[f"user w1 {processor.image_token} w2 assistant"], images=opened(picture(1)))
    assert used == len(shown["input_ids"][0]) == OTHER_TOKENS + IMAGE_TOKENS[kind]
    assert (await ask(seeing, body, "/tokenize"))["count"] == used


async def test_choices_and_streams_show_the_image_too(seeing: Neuron):
    body = chat(url(picture(3)), n=2, seed=1)
    answer = await ask(seeing, body)
    first, second = (choice["message"]["content"] for choice in answer["choices"])
    assert first == second  # greedy
    streamed = await seeing.http.post("/v1/chat/completions", json=body | {"stream": True, "n": 1})
    assert "data: [DONE]" in streamed.text


async def test_a_tool_may_answer_with_an_image(seeing: Neuron):
    messages = [
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": "w2"},
        {"role": "tool", "tool_call_id": "a", "content": [url(picture(1))]},
    ]
    await ask(seeing, {"model": "m", "messages": messages, "max_tokens": 2})


async def test_texts_without_images_go_through_the_same_template(seeing: Neuron):
    body = {"model": "m", "messages": [{"role": "user", "content": "w1 w2"}], "max_tokens": 2}
    assert (await ask(seeing, body))["usage"]["prompt_tokens"] == OTHER_TOKENS


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        (chat(text("w1"), url(b"no image")), "invalid_image", "messages[0].content[1]", "none of PNG"),
        (
            chat(url(picture(1)), url(picture(2)[:300])),
            "invalid_image",
            "messages[0].content[1]",
            "damaged",
        ),
        (
            chat({"type": "image_url", "image_url": {"url": "http://x/a.png"}}),
            "invalid_request_body",
            "messages[0].content[0].image_url.url",
            "expected data:image/png;base64,",
        ),
        (
            chat({"type": "image_url", "image_url": "data:image/png;base64,***"}),
            "invalid_request_body",
            "messages[0].content[0].image_url.url",
            "not base64",
        ),
        (chat(*[url(picture(1))] * 4), "invalid_request_body", "messages[0].content[3]", "may have 3 images"),
        (
            chat({"type": "input_audio", "input_audio": {}}),
            "unsupported_parameter",
            "messages[0].content[0]",
            "does not read input_audio",
        ),
        (
            chat({"type": "video", "video": ["data:image/png;base64,AAAA"]}),
            "unsupported_parameter",
            "messages[0].content[0]",
            "does not read video; send a video_url",
        ),
        (
            {"model": "m", "messages": [{"role": "system", "content": [url(picture(1))]}]},
            "invalid_request_body",
            "messages[0].content[0]",
            "not system",
        ),
    ],
)
async def test_unusable_image_is_refused_with_its_place(seeing: Neuron, body, code, param, words):
    answer = await seeing.http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]


async def test_text_may_not_say_what_stands_for_an_image(seeing: Neuron, kind: str):
    marker = build(kind)[1].image_token  # what the template writes
    for said in {marker, IMAGE}:
        answer = await seeing.http.post("/v1/chat/completions", json=chat(url(picture(1)), text(said)))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_request_body")
        assert error["param"] == "messages"
        assert "may not say " + " or ".join(map(repr, dict.fromkeys((marker, IMAGE)))) in error["message"]
