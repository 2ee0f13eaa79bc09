"""What a person must see: what the model cannot read, why it failed, which sessions there are."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from acp_testing.inprocess import Conversation
from acp_testing.process import FULL_CLIENT, RpcFailureError

from helexa_acp.agent.capabilities import capabilities
from helexa_acp.config import parse_config
from helexa_acp.v1.content import unreadable

ECHO = "[[turn]]\nmatch = 'nothing matches this'\n"
IMAGE = {"type": "image", "mimeType": "image/png", "data": "AAAA"}
BLOB = {"type": "resource", "resource": {"uri": "file:///a.bin", "blob": "AAAA"}}


def text(words):
    return {"type": "text", "text": words}


# Images and attachments


def test_what_cannot_be_read_is_named_once():
    picture = {"type": "resource", "resource": {"uri": "file:///p", "blob": "AAAA", "mimeType": "image/png"}}
    note = {"type": "resource", "resource": {"uri": "file:///n", "text": "x"}}
    named = {**IMAGE, "uri": "file:///q"}
    blocks = [text("x"), IMAGE, IMAGE, named, BLOB, picture, note]
    assert unreadable(blocks, images=True) == ("file:///a.bin",)
    assert unreadable(blocks, images=False) == (
        "the image",
        "the image file:///q",
        "file:///a.bin",
        "file:///p",
    )


@pytest.mark.parametrize("capable", [FULL_CLIENT, {}])
async def test_an_image_that_the_model_cannot_read_is_said(script, start, project, capable):
    script(ECHO, "images = false\n")
    async with start() as agent:
        declared = await agent.initialize(capable)
        assert declared["agentCapabilities"]["promptCapabilities"]["image"] is False
        session = await agent.new_session(project)
        await agent.request("session/prompt", sessionId=session, prompt=[text("look"), IMAGE, BLOB])
        title = "script:m cannot read the image, file:///a.bin"
        if capable:
            assert [u["title"] for u in agent.updates if u["sessionUpdate"] == "notice"] == [title]
        else:
            assert agent.text().count(title) == 1


async def test_a_server_that_refuses_images_is_told_of_in_the_same_turn(tmp_path, project):
    answer = {"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}

    def serve(request):
        if request.url.path.endswith("/models"):
            return httpx.Response(404)
        if b"image_url" in request.content:
            return httpx.Response(400, json={"error": {"message": "image input is not supported"}})
        body = f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=body)

    talk = Conversation(tmp_path / "data", serve, lambda _: {"result": {}})
    await talk.start(FULL_CLIENT)
    session = await talk.new_session(project)
    for _ in range(2):
        talk.messages.clear()
        await talk.request("session/prompt", sessionId=session, prompt=[text("look"), IMAGE])
        assert [u["title"] for u in talk.updates if u["sessionUpdate"] == "notice"] == [
            "e:m cannot read the image"
        ]
    await talk.aclose()


@pytest.mark.parametrize(
    ("endpoint", "kept", "image"),
    [
        ({}, None, True),
        ({"images": False}, None, False),
        ({"images": True}, [{"id": "m", "images": False}], True),
        ({}, [{"id": "m", "images": False}], False),
        ({}, [{"id": "m", "images": False}, {"id": "n", "images": None}], True),
        ({}, "damaged", True),
    ],
)
def test_the_image_capability_follows_the_models(tmp_path, endpoint, kept, image):
    table = {"endpoints": [{"name": "e", "base_url": "http://e/v1", **endpoint}]}
    home = tmp_path / "helexa-acp"
    home.mkdir()
    if kept is not None:
        (home / "models.json").write_text(json.dumps({"e": {"models": kept}}))
    declared = capabilities(parse_config(table, source="test", env={}), {"XDG_DATA_HOME": str(tmp_path)})
    assert declared["promptCapabilities"]["image"] is image


# Prompts


@pytest.mark.parametrize("blocks", [[], [text("")], [text(" \n"), text("\t")]])
async def test_an_empty_prompt_is_refused(script, start, project, blocks):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        with pytest.raises(RpcFailureError, match="prompt is empty") as refused:
            await agent.request("session/prompt", sessionId=session, prompt=blocks)
        assert refused.value.error["code"] == -32602


async def test_a_slash_command_after_other_blocks_is_seen(script, start, project):
    script(ECHO)
    folder = project / ".helexa" / "commands"
    folder.mkdir(parents=True)
    (folder / "shout.md").write_text("Say $ARGUMENTS loudly.")
    resource = {"type": "resource", "resource": {"uri": "file:///a", "text": "attached"}}
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        blocks = [text("<selection>x</selection>"), resource, text("/shout this")]
        await agent.request("session/prompt", sessionId=session, prompt=blocks)
        assert "<selection>x</selection>" in agent.text()
        assert "attached" in agent.text()
        assert "Say this loudly." in agent.text()
        agent.messages.clear()
        await agent.request("session/prompt", sessionId=session, prompt=[text("context"), text("/cost")])
        assert "requests" in agent.text()


# Sessions


async def test_a_session_is_listed_from_its_first_prompt_on_with_its_directories(
    script, start, project, tmp_path
):
    script('[[turn]]\nmatch = "break"\n[[turn.reply]]\nsteps = [{ error = "broken", status = 400 }]\n')
    other = tmp_path / "other"
    other.mkdir()
    async with start() as agent:
        await agent.initialize()
        await agent.new_session(project)
        session = await agent.new_session(project, additionalDirectories=[str(other)])
        assert (await agent.request("session/list"))["sessions"] == []
        with pytest.raises(RpcFailureError) as broken:
            await agent.prompt(session, "break")
        assert broken.value.error["data"]["details"] == broken.value.error["message"]
    async with start() as agent:
        await agent.initialize()
        (listed,) = (await agent.request("session/list"))["sessions"]
        assert (listed["sessionId"], listed["title"]) == (session, "break")
        assert listed["additionalDirectories"] == [str(other)]


async def test_a_session_whose_first_prompt_is_a_command_is_listed(script, start, project):
    script(ECHO)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "/cost")
        assert [s["sessionId"] for s in (await agent.request("session/list"))["sessions"]] == [session]
        never = await agent.new_session(project)
        await agent.request("session/load", sessionId=never, cwd=str(project), mcpServers=[])
        assert len((await agent.request("session/list"))["sessions"]) == 1


@pytest.mark.parametrize("field", ["cwd", "additionalDirectories"])
async def test_a_directory_that_does_not_exist_is_refused(script, start, project, field):
    script(ECHO)
    gone = str(project / "gone")
    params = {"cwd": str(project), "mcpServers": [], field: gone if field == "cwd" else [gone]}
    async with start() as agent:
        await agent.initialize()
        with pytest.raises(RpcFailureError, match=f"{field}: there is no directory .*gone") as refused:
            await agent.request("session/new", **params)
        assert refused.value.error["code"] == -32602
        assert not Path(gone).exists()
