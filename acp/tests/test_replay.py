"""A replay shows what was shown live, whatever the model did."""

from __future__ import annotations

from acp_testing.process import fold
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.agent.replay import INTERRUPTED, replay
from helexa_acp.agent.reply import Reply, pending_card
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.config import parse_config
from helexa_acp.provider.types import (
    ReasoningDelta,
    ReasoningState,
    Role,
    TextDelta,
    ToolCallArgsDelta,
    ToolCallStart,
)
from helexa_acp.storage.records import Planned, UserSaid, decode, encode
from helexa_acp.storage.transcript import Transcript
from helexa_acp.tools.tool import Outcome
from helexa_acp.v1 import updates

CONFIG = parse_config({"endpoints": [{"name": "e", "base_url": "http://h/v1"}]}, source="test", env={})

EVENTS = st.lists(
    st.one_of(
        st.builds(TextDelta, st.text(min_size=1, max_size=5)),
        st.builds(ReasoningDelta, st.text(min_size=1, max_size=5)),
        st.builds(ReasoningState, st.none() | st.just({"x": 1})),
        st.just("call"),
    ),
    max_size=15,
)
OUTCOMES = st.lists(
    st.builds(
        Outcome,
        st.text(max_size=5),
        content=st.none() | st.just([updates.text_content("c")]),
        kept=st.none() | st.just([updates.text_content("k")]),
        is_error=st.booleans(),
    ),
    max_size=15,
)


def play(tape, outcomes):
    """Run a round as a turn does: the events of a reply, then the calls, of which some get a result."""
    shown, records = [], [UserSaid("u", [{"type": "text", "text": "hi"}])]
    reply = Reply("e:m", "openai-chat", {}, shown.append)
    for event in tape:
        if event == "call":
            index = len(reply.calls)
            reply.feed(ToolCallStart(index, "same", "read"))
            reply.feed(ToolCallArgsDelta(index, "{}"))
        else:
            reply.feed(event)
    records.append(reply.record(CONFIG))
    for call, outcome in zip(reply.calls.values(), outcomes, strict=False):
        card = ToolCard(pending_card(call, {}), shown.append)
        card.change(status="in_progress", title="Read", content=[updates.diff_content("/a", None, "b")])
        records.append(Planned([{"content": "x", "priority": "low", "status": "pending"}]))
        shown.append(updates.plan(records[-1].entries))
        records.append(card.done(call.id, outcome))
    return shown, [decode(encode(record)) for record in records], len(reply.calls)


@given(EVENTS, OUTCOMES)
def test_replay_equals_what_was_shown(tape, outcomes):
    shown, records, num_calls = play(tape, outcomes)
    replayed = fold([u for u in replay(records) if u["sessionUpdate"] != "user_message_chunk"])
    live = dict(fold(shown))
    for key, value in replayed:
        if key.startswith("card") and value["status"] == "failed" and INTERRUPTED in repr(value):
            assert live[key]["status"] == "pending"
        else:
            assert live[key] == value, key
    # A thought that consists only of its server's state has no text to show.
    assert [key for key, _ in replayed] == list(live)
    history = Transcript()
    for record in records:
        history.apply(record)
    assert len(history.messages[1].calls) == num_calls
    assert sum(message.role is Role.TOOL for message in history.messages) == min(num_calls, len(outcomes))


# A line of each kind in format 1, which later versions must be able to read.
FORMAT_1 = [
    b'{"t":"opened","cwd":"/p","created_at":"2026-11-23T09:00:00.000Z","format":1}',
    b'{"t":"user","message_id":"user_1","blocks":[{"type":"text","text":"hi"}],"expanded":null,"local":false}',
    b'{"t":"assistant","items":[{"type":"thought","id":"think_1","text":"hm","wire":"openai-chat","state":null},{"type":"text","id":"msg_1","text":"Looking."},{"type":"call","card":"call_1","id":"c","name":"read","arguments":"{}"}],"model":"e:m","usage":{"prompt":3,"completion":4},"cost":{"USD":0.1},"interrupted":false}',
    b'{"t":"card","card":{"toolCallId":"call_1","title":"Read a","kind":"read","status":"completed"},"call":"c","result":[{"text":"one"}],"is_error":false}',
    b'{"t":"checkpoint","message_id":"user_1","commit":"0f"}',
    b'{"t":"spent","model":"e:m","usage":{"prompt":1},"cost":{}}',
    b'{"t":"edited","path":"/a","before":null,"after":"0f"}',
    b'{"t":"plan","entries":[{"content":"x","priority":"low","status":"pending"}]}',
    b'{"t":"chose","mode":"plan","model":"e:m","effort":"low"}',
    b'{"t":"title","title":"T"}',
    b'{"t":"said","message_id":"msg_2","text":"note"}',
    b'{"t":"hook","message_id":"hook_1","text":"go on"}',
    b'{"t":"compacted","summary":"S","keep_from":1}',
    b'{"t":"undone","message_id":"user_1"}',
]


def test_old_logs_can_be_read():
    records = [decode(line) for line in FORMAT_1]
    assert None not in records
    kinds = [update["sessionUpdate"] for update in replay(records)]
    assert kinds == [
        "user_message_chunk",
        "agent_thought_chunk",
        "agent_message_chunk",
        "tool_call",
        "plan",
        "agent_message_chunk",
        "agent_message_chunk",
    ]
    transcript = Transcript()
    for record in records[:-2]:
        transcript.apply(record)
    assert [message.role for message in transcript.messages] == [
        Role.USER,
        Role.ASSISTANT,
        Role.TOOL,
        Role.USER,
    ]
    assert (transcript.chose.mode, transcript.title, transcript.cost) == ("plan", "T", {"USD": 0.1})
