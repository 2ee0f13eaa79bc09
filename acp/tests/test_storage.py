from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.provider.types import Role
from helexa_acp.storage.log import SessionBusyError, SessionGoneError, SessionLog
from helexa_acp.storage.records import (
    AgentSaid,
    AssistantSaid,
    CardDone,
    Checkpointed,
    Chose,
    Compacted,
    Edited,
    Opened,
    Spent,
    Titled,
    Undone,
    UserSaid,
    decode,
    encode,
)
from helexa_acp.storage.store import BadCursorError, NoSuchSessionError, SessionStore
from helexa_acp.storage.transcript import Transcript


def user(id_, text="hi", **more):
    return UserSaid(id_, [{"type": "text", "text": text}], **more)


def said(text, *calls):
    items = [{"type": "text", "id": "t", "text": text}]
    items += [
        {"type": "call", "card": f"card-{c}", "id": c, "name": "read", "arguments": "{}"} for c in calls
    ]
    return AssistantSaid(items, "e:m", {"prompt": 10, "completion": 5}, {"USD": 0.5})


def card(call, text="result"):
    return CardDone(
        {"toolCallId": f"card-{call}", "title": "Read", "status": "completed"}, call, [{"text": text}]
    )


RECORDS = [
    Opened("/p", "2026-01-01T00:00:00Z"),
    user("u1"),
    said("Looking.", "a", "b"),
    card("b"),
    card("a"),
    said("Done."),
    Titled("A title"),
    Chose(model="e:m"),
    AgentSaid("s1", "note"),
]


@pytest.mark.parametrize(
    "record",
    [
        *RECORDS,
        Compacted("sum", 3),
        Undone("u1"),
        Edited("/a", None, "0f"),
        Spent("e:m", {"prompt": 1}),
        Checkpointed("u1", "0f"),
    ],
)
def test_records_survive_a_round_trip(record):
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"t":"new kind"}',
        b'{"t":"user"}',
        b'{"t":"title","title":3}',
        b'{"t":"plan","entries":[1]}',
    ],
)
def test_damaged_and_unknown_lines_are_skipped(line):
    assert decode(line) is None


def test_a_later_versions_fields_are_ignored():
    assert decode(b'{"t":"title","title":"x","colour":"red"}') == Titled("x")


@given(st.binary(max_size=200))
def test_any_line_decodes_or_is_skipped(line):
    decode(line)


def test_a_torn_line_costs_only_itself(tmp_path):
    path = tmp_path / "s.jsonl"
    log = SessionLog(path)
    log.append(Titled("one"))
    log.close()
    with path.open("ab") as file:
        file.write(encode(Titled("torn"))[:12])
    log = SessionLog(path)
    assert log.read_new() == [Titled("one")]
    with log.hold() as others:
        assert others == []
        log.append(Titled("two"))
    log.close()
    assert SessionLog(path).read_new() == [Titled("one"), Titled("two")]


@given(cut=st.integers(0, 10_000))
def test_a_crash_leaves_a_prefix_of_the_records(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "s.jsonl"
    whole = b"".join(map(encode, RECORDS))
    path.write_bytes(whole[: min(cut, len(whole))])
    log = SessionLog(path)
    records = log.read_new()
    log.close()
    assert records == RECORDS[: len(records)]
    transcript = Transcript()
    for record in records:
        transcript.apply(record)


def test_two_processes_take_turns_and_see_each_other(tmp_path):
    mine, other = SessionLog(tmp_path / "s.jsonl"), SessionLog(tmp_path / "s.jsonl")
    with mine.hold() as seen:
        assert seen == []
        mine.append(Titled("mine"))
        with pytest.raises(SessionBusyError), other.hold():
            pass
    with other.hold() as seen:
        assert seen == [Titled("mine")]
        other.append(Titled("other"))
    with mine.hold() as seen:
        assert seen == [Titled("other")]
    mine.close()
    other.close()


def test_a_choice_made_elsewhere_during_a_turn_is_read_once(tmp_path):
    mine, other = SessionLog(tmp_path / "s.jsonl"), SessionLog(tmp_path / "s.jsonl")
    with mine.hold():
        mine.append(user("u1"))
        other.append(Chose(mode="plan"))
        mine.append(said("a" * 100))
    with mine.hold() as seen:
        assert seen == [Chose(mode="plan")]
        mine.append(Titled("T"))
    assert mine.read_new() == []
    mine.close()
    with other.hold() as seen:
        assert seen == [user("u1"), said("a" * 100), Titled("T")]
    other.close()


def test_a_choice_after_a_torn_line_is_kept(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(encode(Titled("one")) + encode(Titled("torn"))[:9])
    log = SessionLog(path)
    log.read_new()
    log.append(Chose(mode="plan"))
    with log.hold() as seen:
        assert seen == []
    log.close()
    again = SessionLog(path)
    assert again.read_new() == [Titled("one"), Chose(mode="plan")]
    again.close()


@given(
    st.lists(st.tuples(st.sampled_from(["mine", "other"]), st.sampled_from(["append", "read"])), max_size=20)
)
def test_every_record_is_read_once_by_the_other_side(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("log") / "s.jsonl"
    logs = {"mine": SessionLog(path), "other": SessionLog(path)}
    written, seen = {"mine": [], "other": []}, {"mine": [], "other": []}
    for number, (who, what) in enumerate([*steps, ("mine", "read"), ("other", "read")]):
        if what == "append":
            written[who].append(Titled(str(number)))
            logs[who].append(written[who][-1])
        else:
            seen[who] += logs[who].read_new()
    assert seen == {"mine": written["other"], "other": written["mine"]}
    for log in logs.values():
        log.close()


def test_the_lock_is_released_with_its_process(tmp_path):
    path = tmp_path / "s.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from helexa_acp.storage.log import SessionLog\n"
        f"log = SessionLog(Path({str(path)!r})); h = log.hold(); h.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        log = SessionLog(path)
        with pytest.raises(SessionBusyError), log.hold():
            pass
        child.kill()
        child.wait()
        with log.hold() as others:
            assert others == []
        log.close()


def test_a_deleted_session_is_not_written_to(tmp_path):
    log = SessionLog(tmp_path / "s.jsonl")
    (tmp_path / "s.jsonl").unlink()
    with pytest.raises(SessionGoneError), log.hold():
        pass
    log.close()


def fold(*records):
    transcript = Transcript()
    for record in records:
        transcript.apply(record)
    return transcript


def test_the_history_follows_from_the_records():
    transcript = fold(*RECORDS)
    assert [m.role for m in transcript.messages] == [
        Role.USER,
        Role.ASSISTANT,
        Role.TOOL,
        Role.TOOL,
        Role.ASSISTANT,
    ]
    assert transcript.title == "A title"
    assert transcript.cost == {"USD": 1.0}
    assert transcript.used_tokens == 15
    assert transcript.chose.model == "e:m"


def test_local_commands_stay_out_of_the_history():
    assert fold(user("u1", "/cost", local=True), AgentSaid("s", "12")).messages == []


def test_expanded_commands_reach_the_model_as_text():
    assert fold(user("u1", "/fix", expanded="Fix it.")).messages[0].text == "Fix it."


def test_an_expanded_command_leaves_the_other_blocks():
    blocks = [
        {"type": "text", "text": "a selection"},
        {"type": "text", "text": "/fix"},
        {"type": "resource", "resource": {"uri": "file:///a", "text": "x"}},
    ]
    (message,) = fold(UserSaid("u1", blocks, expanded="Fix it.", command=1)).messages
    assert message.text == 'a selection\n\nFix it.\n\n<resource uri="file:///a">\nx\n</resource>'


def test_compaction_replaces_the_view_and_keeps_the_history():
    transcript = fold(user("u1"), said("a"), user("u2", "later"), said("b"), Compacted("sum", 2))
    assert len(transcript.messages) == 4
    view = transcript.view()
    assert "sum" in view[0].text
    assert [m.text for m in view[1:]] == ["later", "b"]


def test_undo_drops_the_last_turn_only():
    transcript = fold(user("u1"), said("a"), user("u2"), said("b", "x"), card("x"), Undone("u2"))
    assert [m.text for m in transcript.messages] == ["hi", "a"]
    transcript.apply(Undone("u2"))
    assert len(transcript.messages) == 2


# The store


def test_pages_are_the_latest_first_and_complete(tmp_path):
    store = SessionStore(tmp_path)
    ids = []
    for number in range(7):
        cwd = "/a" if number % 2 else "/b"
        id_, log = store.create(cwd)
        log.close()
        store.note(id_, cwd, None)
        ids.append(id_)
    seen, cursor = [], None
    while True:
        page, cursor = store.page(None, cursor, size=3)
        seen += [note.id for note in page]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert {note.cwd for note in store.page("/a", None)[0]} == {"/a"}
    assert store.page("/nowhere", None) == ([], None)


@pytest.mark.parametrize("cursor", ["x", "", "e30=", "WzEsMl0="])
def test_bad_cursors_are_refused(tmp_path, cursor):
    with pytest.raises(BadCursorError):
        SessionStore(tmp_path).page(None, cursor)


@pytest.mark.parametrize("id_", ["../../etc/passwd", "", "a/b", "no-such", "x" * 200, "\0"])
def test_ids_of_no_session_are_refused(tmp_path, id_):
    with pytest.raises(NoSuchSessionError):
        SessionStore(tmp_path).open(id_)
    SessionStore(tmp_path).delete(id_)


def test_a_lost_note_is_found_in_the_log(tmp_path):
    store = SessionStore(tmp_path)
    id_, log = store.create("/p")
    log.append(user("u1"))
    log.append(Titled("T"))
    log.close()
    (tmp_path / f"{id_}.note.json").write_text("{")
    (note,) = store.page(None, None)[0]
    assert (note.id, note.cwd, note.title) == (id_, "/p", "T")


def test_a_session_is_listed_from_its_first_prompt_on(tmp_path):
    store = SessionStore(tmp_path)
    id_, log = store.create("/p")
    assert store.page(None, None) == ([], None)
    log.append(user("u1"))
    log.close()
    assert [note.id for note in store.page(None, None)[0]] == [id_]
    store.note(id_, "/p", None, ["/q"])
    assert store.page(None, None)[0][0].additional == ("/q",)


def test_sessions_are_private(tmp_path):
    id_, log = SessionStore(tmp_path / "s").create("/p")
    log.close()
    assert pathlib.Path(tmp_path / "s" / f"{id_}.jsonl").stat().st_mode & 0o077 == 0
