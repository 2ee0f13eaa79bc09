"""The program as a process: standard streams, exit codes, hostile input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from acp_testing.clients import SCHEMA, agent_command
from acp_testing.schema import WireJudge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ECHO = "[[turn]]\nmatch = 'nothing matches this'\n"
HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}


def run(env, lines, *args, judged=True):
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    done = subprocess.run(
        [*agent_command(), *args], input=data, env=env, capture_output=True, timeout=60, check=False
    )
    judge = WireJudge(SCHEMA)
    judge.client_sent(HELLO)
    answers = [judge.judge(line, results=judged) for line in done.stdout.splitlines(keepends=True)]
    return done, answers


def test_the_agent_exits_cleanly_at_the_end_of_input(script):
    done, answers = run(script(ECHO), [HELLO])
    assert done.returncode == 0
    assert [a["id"] for a in answers] == [1]


def test_the_agent_exits_cleanly_on_empty_input(script):
    done, answers = run(script(ECHO), [])
    assert (done.returncode, answers) == (0, [])


def test_a_last_line_without_newline_is_read(script):
    _, answers = run(script(ECHO), [json.dumps(HELLO).encode()])
    assert answers[0]["result"]["protocolVersion"] == 1


@pytest.mark.parametrize(
    ("line", "code", "id_"),
    [
        (b"{\n", -32700, None),
        (b"\xff\xfe\n", -32700, None),
        (b"[]\n", -32600, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"initialize"}]\n', -32600, None),
        (b"3\n", -32600, None),
        (b'{"id":7,"method":"initialize"}\n', -32600, 7),
        (b'{"jsonrpc":"2.0","id":{},"method":"x"}\n', -32600, None),
        (b'{"jsonrpc":"2.0","id":"a","method":3}\n', -32600, "a"),
        (b'{"jsonrpc":"2.0","id":9}\n', -32600, 9),
        (b'{"jsonrpc":"2.0","id":9,"method":"nope"}\n', -32601, 9),
        (b'{"jsonrpc":"2.0","id":9,"method":"initialize","params":[1]}\n', -32602, 9),
        (b'{"jsonrpc":"2.0","id":9,"method":"initialize","params":{}}\n', -32602, 9),
        (b"[" * 100_000 + b"\n", -32700, None),
    ],
)
def test_invalid_lines_get_errors_and_the_agent_continues(script, line, code, id_):
    done, answers = run(script(ECHO), [line, HELLO])
    assert done.returncode == 0
    assert (answers[0]["error"]["code"], answers[0]["id"]) == (code, id_)
    assert answers[-1]["result"]["protocolVersion"] == 1


def test_answers_to_no_request_are_ignored(script):
    _, answers = run(script(ECHO), [{"jsonrpc": "2.0", "id": 5, "result": {}}, b"\n", b"  \n", HELLO])
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[[endpoints", "not valid TOML"),
        ("", "at least one"),
        ('[[endpoints]]\nname = "a:b"\nbase_url = "http://x/v1"\n', "clash"),
        ('[[endpoints]]\nname = "a"\nbase_url = "x"\n', "no usable endpoints"),
    ],
)
def test_a_bad_configuration_is_reported_before_anything_is_served(env, config, words):
    (Path(env["HOME"]) / ".config" / "helexa-acp" / "config.toml").write_text(config)
    done, _ = run(env, [HELLO])
    assert done.returncode == 2
    assert done.stdout == b""
    assert words in done.stderr.decode()


def test_a_skipped_endpoint_is_a_warning_on_stderr(script, env):
    script(ECHO, '[[endpoints]]\nname = "bad"\nbase_url = "nonsense"\n')
    done, answers = run(env, [HELLO])
    assert answers[0]["result"]
    assert "'bad' is skipped: base_url" in done.stderr.decode()


def test_the_log_goes_to_the_log_file(script, env, tmp_path):
    script(ECHO, "typo = 1\n")
    done, _ = run(env, [HELLO], "--log-file", str(tmp_path / "log"))
    assert done.stderr == b""
    assert "unknown key 'typo'" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("args", "code"), [(["--version"], 0), (["--help"], 0), (["dance"], 2), (["check"], 2)]
)
def test_the_exit_status_follows_from_the_command_line(env, args, code):
    done = subprocess.run([*agent_command(), *args], env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == code


def test_doctor_and_chat_work_with_a_scripted_endpoint(script, env, project):
    script(
        '[[turn]]\nmatch = "report"\n[[turn.reply]]\nsteps = [{ call = "report", args = { value = 7 } }]\n'
    )
    doctor = subprocess.run(
        [*agent_command(), "doctor"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert doctor.returncode == 0, doctor.stderr
    assert doctor.stdout.split("\n")[-2].split()[:4] == ["script", "yes", "none", "1"]
    assert "\nsandbox of commands: " in doctor.stdout
    assert "\nlanguage servers: " in doctor.stdout
    chat = subprocess.run([*agent_command(), "chat"], input="hello\n", env=env, cwd=project, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert "You said: hello" in chat.stdout, chat.stderr


def test_check_finds_no_broken_rule_in_this_agent(script, env):
    script(ECHO)
    argv = [*agent_command(), "check", "--", *agent_command()]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout
    assert "23 of 23 rules kept" in done.stdout


def test_check_finds_broken_rules_in_a_bad_agent(env, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import json, sys\nprint('hello!')\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    r = {'protocolVersion': m['params'].get('protocolVersion'), 'agentCapabilities': {}, 'sessionId': 's'}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m.get('id'), 'result': r}), flush=True)\n"
    )
    argv = [*agent_command(), "check", "--timeout", "1", "--", agent_command()[0], str(bad)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 1
    for rule in ("unknown protocol version", "nothing but JSON-RPC", "unknown request", "not JSON"):
        assert any(line.startswith("FAIL") and rule in line for line in done.stdout.splitlines()), done.stdout


METHODS = st.sampled_from(
    [
        *(
            "initialize",
            "session/new",
            "session/load",
            "session/prompt",
            "session/list",
            "session/cancel",
            "logout",
        ),
        *(
            "session/set_mode",
            "session/set_config_option",
            "$/cancel_request",
            "session/delete",
            "authenticate",
            "x",
        ),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PARAMS = VALUES | st.dictionaries(
    st.sampled_from(
        ["sessionId", "cwd", "mcpServers", "prompt", "modeId", "protocolVersion", "requestId", "cursor"]
    ),
    VALUES,
)
LINES = st.one_of(
    st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"") + b"\n"),
    st.builds(
        lambda m, p, i: json.dumps({"jsonrpc": "2.0", "id": i, "method": m, "params": p}).encode() + b"\n",
        METHODS,
        PARAMS,
        VALUES,
    ),
    VALUES.map(lambda v: json.dumps(v).encode() + b"\n"),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=60))
def test_a_hostile_client_gets_errors_and_no_crash(script, lines):
    env = script(ECHO)
    last = {"jsonrpc": "2.0", "id": "the-last", "method": "initialize", "params": {"protocolVersion": 1}}
    done, answers = run(env, [*lines, last], judged=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr.decode(), done.stderr.decode()
    assert answers[-1]["id"] == "the-last" or any(a.get("id") == "the-last" for a in answers)


def test_setup_writes_a_private_file(env):
    argv = [*agent_command(), "setup"]
    answers = "http://127.0.0.1:9/v1\nanthropic-messages\nm\n\n"
    env = {**env, "PYTHONWARNINGS": "ignore"}  # getpass warns that this is no terminal
    done = subprocess.run(
        argv,
        input=answers,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    path = Path(env["HOME"]) / ".config" / "helexa-acp" / "config.toml"
    assert path.stat().st_mode & 0o077 == 0
    assert 'wire_api = "anthropic-messages"' in path.read_text()
    again = subprocess.run(argv, input="", env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "exists" in again.stdout


def test_chat_shows_what_the_endpoint_is_waiting_for(script, project):
    env = script('[[turn]]\n[[turn.reply]]\nsteps = [{ progress = "loading m 43 %" }, { text = "Hi." }]\n')
    chat = subprocess.run(
        [*agent_command(), "chat"],
        input="hello\n",
        env=env,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert chat.stdout.index("* loading m 43 %") < chat.stdout.index("Hi."), chat.stderr
