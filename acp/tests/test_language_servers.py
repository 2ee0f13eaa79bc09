"""Language servers: their messages, where they are found, and their configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.config import parse_config
from helexa_acp.language_servers import KNOWN
from helexa_acp.tools.lsp.framing import MAX_BODY_BYTES, MAX_HEAD_BYTES, BadFrameError, FrameSplitter, encode
from helexa_acp.tools.lsp.problem import MAX_SHOWN, parse_problems, report
from helexa_acp.tools.lsp.servers import find_server

# Frames


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=4), st.data())
def test_frames_are_found_however_they_arrive(messages, data):
    stream = b"".join(map(encode, messages))
    splitter, found = FrameSplitter(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == [{"jsonrpc": "2.0", **message} for message in messages]


@pytest.mark.parametrize(
    "stream",
    [
        b"Hello!\r\n\r\n",
        b"x" * (MAX_HEAD_BYTES + 1),
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"Content-Length: 2\r\n\r\n[]",
        b"Content-Length: 1\r\n\r\n{",
        b"Content-Length: 100000\r\n\r\n" + b"[" * 100000,
    ],
)
def test_what_is_no_frame_is_an_error(stream):
    with pytest.raises(BadFrameError):
        FrameSplitter().feed(stream)


# Problems

_KEYS = st.sampled_from(["range", "start", "line", "character", "message", "severity", "code"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner),
)


@given(_JSON)
def test_malformed_diagnostics_are_left_out(value):
    for problem in parse_problems(value) + parse_problems([value]):
        assert str(problem)


def test_errors_come_first_and_hints_not_at_all():
    def item(line, severity, message="m"):
        return {"range": {"start": {"line": line, "character": 0}}, "severity": severity, "message": message}

    found = parse_problems([item(0, 2), item(5, 1, "a\nb"), item(1, 3), item(5, 1, "a\nb")])
    assert report("s", found) == "s says of this file:\n6:1 error: a b\n1:1 warning: m"
    assert report("s", []) == ""
    many = report("s", parse_problems([item(line, 1) for line in range(MAX_SHOWN + 5)]))
    assert many.endswith("and 5 more")


# Where they are found


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


KNOWN_BY_NAME = {server.name: server for server in KNOWN}


def test_servers_are_found_on_the_path_or_in_the_project(project, tmp_path):
    path = str(tmp_path / "bin")
    assert find_server(KNOWN_BY_NAME["ruff"], [project], path) is None
    own = program(project / ".venv" / "bin", "ruff")
    found = find_server(KNOWN_BY_NAME["ruff"], [project], path)
    assert (found.program, found.needs_consent) == (str(own), True)
    installed = program(tmp_path / "bin", "ruff")
    found = find_server(KNOWN_BY_NAME["ruff"], [project], path)
    assert (found.program, found.needs_consent) == (str(installed), False)
    found = find_server(KNOWN_BY_NAME["ruff"], [project], str(project / ".venv" / "bin"))
    assert found.needs_consent


def test_a_server_that_runs_the_projects_code_needs_consent_unless_it_is_configured(project, tmp_path):
    program(tmp_path / "bin", "gopls")
    path = str(tmp_path / "bin")
    assert find_server(KNOWN_BY_NAME["gopls"], [project], path).needs_consent
    configured = configure({"name": "gopls"})[0]
    assert not find_server(
        next(s for s in configured.servers if s.name == "gopls"), [project], path
    ).needs_consent


def test_a_python_server_is_told_of_the_projects_interpreter(project, tmp_path):
    program(tmp_path / "bin", "pyright-langserver")
    python = program(project / ".venv" / "bin", "python")
    found = find_server(KNOWN_BY_NAME["pyright"], [project], str(tmp_path / "bin"))
    assert found.server.settings == {"python": {"pythonPath": str(python)}}


# Configuration


def configure(*servers, **diagnostics):
    table = {"endpoints": [{"name": "e", "base_url": "http://e/v1"}], "language_servers": list(servers)}
    config = parse_config({**table, "diagnostics": diagnostics}, source="c", env={})
    return config.extensions.diagnostics, config.warnings


def test_servers_are_added_changed_and_switched_off():
    settings, warnings = configure(
        {"name": "clangd", "command": "clangd", "languages": {".c": "c"}},
        {"name": "ruff", "enabled": False},
        {"name": "pyright", "command": "basedpyright-langserver", "settings": {"python": {"x": 1}}},
        timeout_s=2,
    )
    servers = {server.name: server for server in settings.servers}
    assert servers["clangd"].languages == {".c": "c"}
    assert servers["pyright"].args == ("--stdio",)
    assert servers["pyright"].command == "basedpyright-langserver"
    assert "ruff" not in servers
    assert (settings.timeout_s, warnings) == (2, ())
    assert configure(enabled=False)[0] is None


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"command": "x"}, "name: is missing"),
        ({"name": "x", "languages": {".c": "c"}}, "command: is missing"),
        ({"name": "x", "command": "x"}, "languages: is missing"),
        ({"name": "x", "command": "x", "languages": {"c": "c"}}, "must map suffixes to languages"),
        ({"name": "x", "colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_bad_server_is_left_out_with_a_warning(server, said):
    settings, (warning,) = configure(server)
    assert settings.servers == KNOWN
    assert said in warning
