"""`cortex init`, by options and as a person at a terminal answers it."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cortex_site.cli.app import app
from cortex_site.cli.init import text_of
from cortex_site.config import load_config

ANSWERS = {
    "listen": "0.0.0.0:41000",
    "state-dir": "/srv/cortex",
    "database": "postgresql://cortex:pass@db/cortex",
    "redis": "redis://cache:6379/1",
    "node": "https://[2001:db8::7]:13131",
}


def init(path, **answers: str):
    options = [part for option, value in answers.items() for part in (f"--{option}", value)]
    return CliRunner().invoke(app, ["init", str(path), *options])


def test_options_answer_all_questions(tmp_path, monkeypatch):
    monkeypatch.delenv("CORTEX_STATE_DIR")
    path = tmp_path / "etc" / "cortex.toml"
    told = init(path, **ANSWERS)
    assert told.exit_code == 0, told.output
    config = load_config(path)
    assert (config.gateway.listen, str(config.state_dir)) == ("0.0.0.0:41000", "/srv/cortex")
    assert (config.database.url, config.redis.url) == (ANSWERS["database"], ANSWERS["redis"])
    assert [(node.name, node.endpoint) for node in config.neurons] == [("2001-db8--7", ANSWERS["node"])]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_terminal_the_rest_are_defaults(tmp_path):
    path = tmp_path / "cortex.toml"
    assert init(path).exit_code == 0
    config = load_config(path)
    assert (config.gateway.listen, config.database.url, config.neurons) == ("127.0.0.1:31313", "", [])


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "cortex.toml"
    path.write_text("mine")
    told = init(path)
    assert (told.exit_code, path.read_text()) == (1, "mine")
    assert "is there already" in told.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("listen", "nowhere"), ("database", "mysql://db"), ("redis", "cache:6379"), ("node", "beast:13131")],
)
def test_an_answer_that_cannot_be_is_refused_by_its_option(tmp_path, option, value):
    program = [
        sys.executable,
        "-m",
        "cortex_site",
        "init",
        str(tmp_path / "cortex.toml"),
        f"--{option}",
        value,
    ]
    told = subprocess.run(program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert told.returncode == 2
    assert told.stderr.startswith(f"cortex: --{option}: expected ")
    assert not (tmp_path / "cortex.toml").exists()


def test_a_person_is_asked_again_after_a_mistake(tmp_path):
    terminal, theirs = pty.openpty()
    path = tmp_path / "cortex.toml"
    os.write(terminal, b"nowhere\n127.0.0.1:41001\n\n\n\nhttp://beast:13131\n")
    program = [sys.executable, "-m", "cortex_site", "init", str(path)]
    told = subprocess.run(program, stdin=theirs, capture_output=True, text=True, check=False, timeout=60)
    os.close(theirs)
    os.close(terminal)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Where should the API listen?") == 2
    config = load_config(path)
    assert (config.gateway.listen, config.neurons[0].name) == ("127.0.0.1:41001", "beast")


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_whatever_is_answered_stands_in_the_file(value):
    answers = {"listen": "h:1", "state_dir": value, "database": "", "redis": "r", "node": ""}
    assert tomllib.loads(text_of(answers))["state_dir"] == value


def test_completion_knows_the_commands():
    asked = {"_CORTEX_COMPLETE": "complete_bash", "COMP_WORDS": "cortex do", "COMP_CWORD": "1"}
    program = "import sys; sys.argv[0] = 'cortex'; from cortex_site.cli.app import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert "doctor" in told.stdout.split(), json.dumps([told.stdout, told.stderr])
