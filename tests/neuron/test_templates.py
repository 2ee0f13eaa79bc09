"""Chat templates in processes of their own: what runs away costs its own request, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from neuron.config import TemplateSettings
from neuron.templates import Templates
from neuron.text.rendering import TemplateRefusal
from neuron.text.template import ChatTemplate
from neuron.text.traits.fitted_template import RenderedChat
from tests.neuron.conftest import config, neuron_with
from tests.stubs import stand_in_calls as calls
from tests.stubs.model_dir import TEMPLATE, write_model

USER = [{"role": "user", "content": "hi"}]


@dataclass
class StandIn:
    """Renders by one of the stand-ins for what a template may do."""

    act: Any
    arguments: tuple[Any, ...] = ()

    def render(self, _messages: Any, **_options: Any) -> RenderedChat:
        return RenderedChat(str(self.act(*self.arguments)))


@contextlib.asynccontextmanager
async def templates_with(**values: Any) -> AsyncIterator[Templates]:
    templates = Templates(TemplateSettings(**{"processes": 1, "cpu_s": 1, "memory_mb": 256} | values))
    try:
        yield templates
    finally:
        await templates.close()


@pytest_asyncio.fixture
async def templates() -> AsyncIterator[Templates]:
    async with templates_with() as made:
        yield made


async def test_a_template_is_probed_and_rendered_without_being_compiled_here(templates, monkeypatch):
    def compiled(_self: ChatTemplate) -> None:
        raise AssertionError("compiled in this process")

    monkeypatch.setattr(ChatTemplate, "compile", compiled)
    fitted = await templates.fit(ChatTemplate(TEMPLATE, {}), {"<|im_end|>": True}, None)
    assert fitted.traits.shows_tools
    assert "enable_thinking" in fitted.traits.variables
    rendered = await templates.render("", fitted, USER)
    assert rendered.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "line 1"),
        ("{{ raise_exception('no chats, please') }}", "renders no chat: no chats, please"),
        ("{% if a %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
    ],
    ids=["syntax", "refuses", "nested"],
)
async def test_a_template_that_is_none_is_refused_with_its_reason(templates, source, reason):
    refusal = await templates.fit(ChatTemplate(source, {}), {}, None)
    assert isinstance(refusal, TemplateRefusal)
    assert reason in refusal.message


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (calls.spin, "more than 1 s of CPU time"),
        (calls.allocate, "more than 256 MiB"),
        (calls.fail, "out of luck"),
    ],
)
async def test_what_runs_away_is_refused_and_the_next_chat_rendered(templates, act, reason):
    refusal = await templates.render("", StandIn(act), USER)
    assert isinstance(refusal, TemplateRefusal)
    assert reason in refusal.message
    assert (await templates.render("", StandIn(calls.same, ("fine",)), USER)).text == "fine"


async def test_a_client_that_leaves_does_not_cost_the_process(templates, tmp_path):
    gate, started = tmp_path / "gate", tmp_path / "started"
    stand_in = StandIn(calls.wait_for, (str(gate), str(started)))
    asked = asyncio.create_task(templates.render("", stand_in, USER))
    async with asyncio.timeout(30):
        while not started.exists():
            await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    gate.touch()
    after = await templates.render("", StandIn(calls.pid), USER)
    assert after.text == started.read_text()


async def test_processes_wait_for_the_first_chat():
    async with templates_with(processes=2) as templates:
        await templates.warm_up()
        pids = {(await templates.render("", StandIn(calls.pid), USER)).text for _ in range(2)}
        assert len(pids) == 1  # whoever is idle


# --- through the daemon ---


async def test_a_chat_that_its_template_cannot_render_is_a_400_for_it_alone(tmp_path):
    picky = "{{ raise_exception('too much') if messages[-1].content == 'boom' }}" + TEMPLATE
    async with neuron_with(config()) as neuron:
        assert (await neuron.load(write_model(tmp_path / "m", template=picky))).status_code == 200
        refused = await neuron.chat("boom")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "template_render_failed")
        assert "too much" in error["message"]
        assert (await neuron.chat("echo hi")).status_code == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"\xff\xfe{{ messages }}"),
        ("chat_template.jinja", b"{% for %}"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": {"default": 5}}'),
        ("tokenizer_config.json", b"[" * 100_000),
        ("generation_config.json", b'{"eos_token_id": {"a": 1}}'),
        ("config.json", b'{"model_type": "fake", "eos_token_id": {"a": 1}}'),
        ("tokenizer_config.json", json.dumps({"eos_token": ["x"], "added_tokens_decoder": 5}).encode()),
    ],
)
async def test_a_broken_directory_fails_its_load_and_never_hangs(tmp_path, name, content):
    directory = write_model(tmp_path / "m")
    (directory / name).write_bytes(content)
    async with neuron_with(config()) as neuron:
        answers = [await neuron.load(directory) for _ in range(2)]
        model = (await neuron.models())["m"]
        if answers[0].status_code == 200:
            assert model["state"] == "loaded"
            return
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_broken"), answer.text
            assert str(directory) in answer.json()["error"]["message"]
        assert model["state"] == "failed"
        other = write_model(Path(tmp_path) / "other")
        assert (await neuron.load(other, "other")).status_code == 200
