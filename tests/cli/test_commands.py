"""`cortex load`, `unload`, `ops`, `join-token`: against an operator API that a test scripts."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from cortex_site.cli import watch
from cortex_site.cli.app import app
from cortex_site.cli.operator_api import OperatorApi, OperatorError

TOKEN = "operator-secret"


def operation(ident: int = 7, state: str = "pending", **fields):
    entry = {"id": ident, "kind": "load", "model": "m", "node": "", "state": state, "progress": None}
    return entry | {"message": "", "error_code": ""} | fields


class Control:
    """`answers` are by method and path: a status and a body, or several that are given in turn."""

    def __init__(self) -> None:
        self.answers: dict[str, list] = {}
        self.asked: list[tuple[str, dict]] = []
        control = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = f"{self.command} {self.path}"
                control.asked.append((path, json.loads(body or b"{}")))
                status, answer = control.next(path)
                if self.headers.get("authorization") != f"Bearer {TOKEN}":
                    status, answer = 401, {"error": {"code": "unauthorized", "message": "no"}}
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = respond  # noqa: N815

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def next(self, path: str):
        given = self.answers.get(path)
        if not given:
            return 404, {"error": {"code": "not_found", "message": f"there is no {path}"}}
        return given[0] if len(given) == 1 else given.pop(0)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def control(monkeypatch, tmp_path) -> Iterator[Control]:
    made = Control()
    monkeypatch.setenv("CORTEX_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CORTEX_ADMIN_URL", made.url)
    monkeypatch.setenv("CORTEX_OPERATOR_TOKEN", TOKEN)
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.01)
    yield made
    made.stop()


def cortex(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def loads(control: Control, *states: dict) -> None:
    control.answers["POST /api/models/load"] = [(202, operation())]
    control.answers["GET /api/operations/7"] = [(200, operation(**state)) for state in states]


def test_a_load_is_watched_to_its_end(control):
    running = {"state": "running", "node": "a", "progress": 0.5, "message": "loading on a"}
    loads(control, running, {"state": "succeeded", "node": "a", "message": "loaded on a"})
    told = cortex("load", "m", "--node", "a", "--reason", "why")
    assert (told.exit_code, told.stdout) == (0, "#7 load of m on a succeeded: loaded on a\n")
    assert control.asked[0] == ("POST /api/models/load", {"model": "m", "node": "a", "reason": "why"})


def test_a_load_that_fails_is_exit_code_1_with_the_reason(control):
    loads(control, {"state": "failed", "message": "no room", "error_code": "no_capacity"})
    told = cortex("load", "m")
    assert (told.exit_code, told.stdout) == (1, "#7 load of m failed: no room (no_capacity)\n")


def test_without_waiting_it_is_told_what_began(control):
    loads(control)
    told = cortex("load", "m", "--no-wait", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout) == {"operations": [operation()]}
    assert len(control.asked) == 1


def test_a_refusal_is_one_line(control):
    refusal = {"error": {"code": "model_not_found", "message": "The model 'm' does not exist."}}
    control.answers["POST /api/models/load"] = [(404, refusal)]
    told = cortex("load", "m")
    assert (told.exit_code, told.stdout, told.stderr) == (1, "", "cortex: The model 'm' does not exist.\n")
    assert json.loads(cortex("load", "m", "--json").stdout) == {"error": "The model 'm' does not exist."}


def test_a_model_is_unloaded_wherever_it_is(control):
    def node(name, state, kind="neuron"):
        return {"name": name, "kind": kind, "placements": [{"model": "m", "state": state}]}

    nodes = [
        node("a", "loaded"),
        node("b", "unloaded"),
        node("c", "failed"),
        node("cloud", "loaded", "openai"),
    ]
    control.answers["GET /api/status"] = [(200, {"nodes": nodes, "aliases": {"best": "m"}})]
    begun = [(202, operation(number, kind="unload")) for number in (1, 2)]
    control.answers["POST /api/models/unload"] = begun
    for number, name in ((1, "a"), (2, "c")):
        ended = operation(number, "succeeded", kind="unload", node=name)
        control.answers[f"GET /api/operations/{number}"] = [(200, ended)]
    told = cortex("unload", "best")
    assert told.exit_code == 0, told.output
    assert told.stdout == "#1 unload of m on a succeeded\n#2 unload of m on c succeeded\n"
    assert [body["node"] for path, body in control.asked if path.startswith("POST")] == ["a", "c"]


def test_the_log_of_a_models_server(control):
    control.answers["GET /api/models/log?model=m&lines=5&node=a"] = [(200, {"lines": ["one", "two"]})]
    assert cortex("log", "m", "--lines", "5", "--node", "a").stdout == "one\ntwo\n"
    control.answers["GET /api/models/log?model=m&lines=200"] = [(200, {"lines": []})]
    assert "no server of its own" in cortex("log", "m").stdout


def test_a_model_that_is_nowhere_loaded(control):
    control.answers["GET /api/status"] = [(200, {"nodes": [], "aliases": {}})]
    told = cortex("unload", "m")
    assert (told.exit_code, told.stderr) == (1, "cortex: m is not loaded on any node\n")


DONE = {"done": True}


@pytest.mark.parametrize(
    ("command", "path", "body", "told"),
    [
        (("pin", "m"), "models/pin", {"model": "m", "node": None}, "m is pinned"),
        (("pin", "m", "--node", "a"), "models/pin", {"model": "m", "node": "a"}, "m is pinned on a"),
        (("unpin", "m"), "models/unpin", {"model": "m", "node": None}, "m is not pinned any more"),
        (
            ("unpin", "m", "--node", "a"),
            "models/unpin",
            {"model": "m", "node": "a"},
            "m is not pinned on a any more",
        ),
        (("cordon", "a"), "nodes/a/cordon", {}, "nothing new is loaded on a"),
        (("uncordon", "a"), "nodes/a/uncordon", {}, "models may be loaded on a again"),
    ],
)
def test_what_is_done_at_once(control, command, path, body, told):
    control.answers[f"POST /api/{path}"] = [(200, DONE)]
    found = cortex(*command, "--reason", "why")
    assert (found.exit_code, found.stdout) == (0, told + "\n")
    assert control.asked == [(f"POST /api/{path}", body | {"reason": "why"})]
    assert json.loads(cortex(*command, "--json").stdout) == DONE


def test_a_drain_and_a_defragmentation_are_watched(control):
    drain = {"kind": "drain", "model": "", "node": "a", "device": None}
    control.answers["POST /api/nodes/a/drain"] = [(202, operation(1, **drain))]
    control.answers["GET /api/operations/1"] = [(200, operation(1, "succeeded", **drain))]
    assert cortex("drain", "a", "--force").stdout == "#1 drain of a succeeded\n"
    assert control.asked[0][1] == {"force": True, "reason": ""}
    control.answers["GET /api/nodes"] = [(200, [{"name": "a", "devices": [{"index": 0}, {"index": 1}]}])]
    for index in (0, 1):
        defrag = {"kind": "defrag", "model": "", "node": "a", "device": index}
        control.answers[f"POST /api/nodes/a/devices/{index}/defrag"] = [(202, operation(5 + index, **defrag))]
        control.answers[f"GET /api/operations/{5 + index}"] = [
            (200, operation(5 + index, "succeeded", **defrag))
        ]
    told = cortex("defrag", "a")
    assert told.stdout == "#5 defrag of a:0 succeeded\n#6 defrag of a:1 succeeded\n"
    assert cortex("defrag", "a", "--device", "1", "--no-wait").stdout == "#6 defrag of a:1 pending\n"
    assert cortex("defrag", "b").stderr == "cortex: there is no node 'b' with devices\n"


def test_operations_are_listed(control):
    control.answers["GET /api/operations?limit=20"] = [
        (200, [operation(8, "running"), operation(7, "failed")])
    ]
    told = cortex("ops")
    assert (told.exit_code, told.stdout) == (0, "#8 load of m running\n#7 load of m failed\n")
    control.answers["GET /api/operations?limit=3&state=failed"] = [(200, [])]
    assert cortex("ops", "--limit", "3", "--state", "failed").stdout == "no operations\n"


def test_one_is_watched_retried_and_cancelled(control):
    control.answers["GET /api/operations/7"] = [(200, operation(state="succeeded"))]
    assert cortex("ops", "7").exit_code == 0
    control.answers["POST /api/operations/7/retry"] = [(202, operation(9))]
    control.answers["GET /api/operations/9"] = [(200, operation(9, "succeeded"))]
    assert cortex("ops", "7", "--retry").stdout == "#9 load of m succeeded\n"
    control.answers["POST /api/operations/7/cancel"] = [(200, operation(state="cancelled"))]
    assert cortex("ops", "7", "--cancel").exit_code == 0
    assert cortex("ops", "--cancel").exit_code == 2


def test_a_control_plane_that_is_away_for_a_moment_is_waited_for(control, monkeypatch):
    loads(control, {"state": "succeeded"})
    kept, away = OperatorApi.get, iter([True, True])

    def get(self, path, **query):
        if next(away, False):
            raise OperatorError("it does not answer")
        return kept(self, path, **query)

    monkeypatch.setattr(OperatorApi, "get", get)
    assert cortex("load", "m").exit_code == 0
    monkeypatch.setattr(watch, "SILENCE_S", 0.0)
    away = iter([True, True])
    told = cortex("load", "m")
    assert (told.exit_code, told.stderr) == (1, "cortex: it does not answer\n")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CORTEX_OPERATOR_TOKEN", "wrong", "does not accept the operator token of CORTEX_OPERATOR_TOKEN"),
        ("CORTEX_ADMIN_URL", "http://127.0.0.1:9", "the control plane at http://127.0.0.1:9 does not answer"),
        ("CORTEX_ADMIN_URL", "nonsense", "the control plane at nonsense does not answer"),
        ("CORTEX_OPERATOR_TOKEN", "", "operator_token: No such file or directory; set CORTEX_OPERATOR_TOKEN"),
    ],
)
def test_what_is_wrong_with_the_way_there(control, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    for command in (("load", "m"), ("unload", "m"), ("ops",), ("join-token",), ("status",)):
        told = cortex(*command)
        assert told.exit_code == 1
        assert words in told.stderr.replace("\n", " ")
        assert TOKEN not in told.output


def test_the_token_of_the_state_directory(control, monkeypatch, tmp_path):
    monkeypatch.delenv("CORTEX_OPERATOR_TOKEN")
    monkeypatch.delenv("CORTEX_ADMIN_URL")
    home = tmp_path / "home"
    home.mkdir()
    (home / "operator_token").write_text(TOKEN + "\n")
    (home / "processes.json").write_text(json.dumps({"admin": control.url, "processes": []}))
    control.answers["GET /api/operations?limit=20"] = [(200, [])]
    assert cortex("ops", "--home", str(home)).stdout == "no operations\n"


def test_join_tokens(control):
    entry = {"id": 1, "prefix": "join-cortex-abc", "name": "rack", "state": "valid", "expires_at": "2030"}
    control.answers["POST /api/join-tokens"] = [(200, entry | {"token": "join-cortex-abcdef"})]
    told = cortex("join-token", "--name", "rack", "--ttl-s", "60")
    assert told.stdout == "join-cortex-abcdef\n"  # alone, for a script
    assert control.asked[-1][1] == {"name": "rack", "ttl_s": 60}
    control.answers["GET /api/join-tokens"] = [(200, [entry])]
    assert cortex("join-token", "--list").stdout == "#1 join-cortex-abc… rack valid until 2030\n"
    control.answers["POST /api/join-tokens/1/revoke"] = [(200, entry | {"state": "revoked"})]
    assert "revoked" in cortex("join-token", "--revoke", "1").stdout


def test_ctrl_c_leaves_the_operation_and_says_so(control):
    loads(control, {"state": "running", "node": "a", "progress": 0.5})
    command = [sys.executable, "-m", "cortex_site", "load", "m"]
    # A suite that a shell started in the background ignores Ctrl-C, and so would its children.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    signal.signal(signal.SIGINT, inherited)
    deadline = time.monotonic() + 60
    while not any(path == "GET /api/operations/7" for path, _ in control.asked):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().strip().splitlines()[-1] == (
        "cortex: operation #7 goes on; `cortex ops 7` watches it"
    )
    assert not any("cancel" in path for path, _ in control.asked)


def test_on_a_terminal_progress_is_a_bar(control):
    running = {"state": "running", "node": "a", "progress": 0.5, "message": "loading on a"}
    loads(control, running, running, running, {"state": "succeeded", "node": "a", "message": "loaded on a"})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cortex_site", "load", "m"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while data := os.read(ours, 65536):
            shown += data
    os.close(ours)
    told, _ = process.communicate(timeout=60)
    assert (process.returncode, told.decode()) == (0, "#7 load of m on a succeeded: loaded on a\n")
    assert "load of m on a: loading on a" in shown.decode()
    assert "50%" in shown.decode()


def test_check_asks_a_running_cortex_what_it_finds(control, tmp_path):
    (tmp_path / "cortex.toml").write_text("")
    control.answers["GET /api/warnings"] = [(200, ["models.toml:3: models.0.min_devices: needs 2 devices"])]
    told = cortex("check", "--config", str(tmp_path / "cortex.toml"))
    assert "warning: models.toml:3: models.0.min_devices: needs 2 devices\n" in told.stdout
