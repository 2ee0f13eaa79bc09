"""What is hidden in a text is shown in tool cards and in requests for permission."""

from __future__ import annotations

import json
import unicodedata

import pytest
from acp_testing.process import fold, without_user
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.v1.visible import visible, visible_card

HIDDEN = "\x1b[2J\u202egnp.exe\u2066\u200b\u0085\x00\U000e0041"
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
SHOWN = r"\x1b[2J\u202egnp.exe\u2066\u200b\x85\x00\U000e0041"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HIDDEN, SHOWN),
        ("a\tb\nc\r\nd", "a\tb\nc\r\nd"),
        ("safe\roverwritten", r"safe\x0doverwritten"),
        ("é 日本 עברית عربي 👩\u200d💻 नि\u200cय", "é 日本 עברית عربي 👩\u200d💻 नि\u200cय"),
        ("\u2028\u2029\ufeff\ud800", r"\u2028\u2029\ufeff\ud800"),
    ],
)
def test_hidden_characters_are_escaped(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_nothing_that_reorders_or_controls_is_left(text):
    left = set(visible(text)) - set("\t\r\n")
    assert not {char for char in left if unicodedata.category(char) in {"Cc", "Cs"}}
    assert not {char for char in left if unicodedata.bidirectional(char) in DIRECTIONS}
    assert visible(visible(text)) == visible(text)


def test_what_a_client_opens_or_decodes_stays_as_it_is():
    card = {
        "title": "\x1b",
        "content": [{"type": "diff", "path": "/\x1b", "oldText": None, "newText": "\x1b"}],
        "rawInput": {"path": "/\x1b", "command": ["\x1b"]},
        "locations": [{"path": "/\x1b", "line": 3}],
        "_meta": {"x": "a"},
    }
    assert visible_card(card) == {
        "title": r"\x1b",
        "content": [{"type": "diff", "path": "/\x1b", "oldText": None, "newText": r"\x1b"}],
        "rawInput": {"path": "/\x1b", "command": [r"\x1b"]},
        "locations": [{"path": "/\x1b", "line": 3}],
        "_meta": {"x": "a"},
    }


async def test_cards_questions_and_replays_show_it(script, start, project):
    hidden = json.dumps(HIDDEN[:12])  # without what a TOML string or a text file cannot hold
    calls = (
        f"call = 'shell', args = {{ command = {hidden} }}",
        f"call = 'write', args = {{ path = 'a', content = {hidden} }}",
        "call = 'read', args = { path = 'a' }",
    )
    steps = "".join(f"[[turn.reply]]\nsteps = [{{ {call} }}]\n" for call in calls)
    script(f"[[turn]]\n{steps}[[turn.reply]]\nsteps = [{{ text = 'done' }}]\n")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "go") == "end_turn"
        shown = [u for u in agent.updates if u["sessionUpdate"].startswith("tool_call")]
        shown += [m["params"] for m in agent.calls("session/request_permission")]
        texts = json.dumps(shown, ensure_ascii=False)
        assert r"\\u202egnp.exe" in texts
        assert visible(texts) == texts
        assert (project / "a").read_text() == HIDDEN[:12]
        live = fold(agent.updates)
        agent.messages.clear()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert dict(without_user(fold(agent.updates))) == dict(live)
