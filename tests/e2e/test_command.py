"""The `cortex` command as a newcomer meets it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from cortex_site.base.version import VERSION
from cortex_site.config import load_catalogue, load_config
from neuron.config import load_config as load_neuron_config
from tests.e2e.conftest import cortex, free_base_port, start_stack

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_version():
    assert cortex("--version").stdout == f"cortex {VERSION}\n"


def test_example_configurations_load():
    config = load_config(DEPLOY / "cortex.example.toml")
    assert config.neurons
    assert load_catalogue(config).models
    assert load_neuron_config(DEPLOY / "neuron.example.toml")


def test_check_says_what_it_would_do():
    told = cortex("check", "--config", str(DEPLOY / "cortex.example.toml"))
    assert told.returncode == 0, told.stderr
    assert "node beast at http://beast.internal:13131" in told.stdout


@pytest.mark.parametrize("command", ["check", "serve", "up", "status"])
def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path, command):
    path = tmp_path / "cortex.toml"
    path.write_text("[gateway]\nlissten = 1\n")
    told = cortex(command, "--config", str(path))
    assert told.returncode == 2
    assert told.stderr == f"cortex: {path}:2: unknown key gateway.lissten\n"


@pytest.mark.parametrize("offset", range(4))
def test_a_taken_port_is_one_line_and_exit_code_2(tmp_path, offset):
    base = free_base_port()
    with socket.create_server(("127.0.0.1", base + offset)):
        told = cortex("up", "--home", str(tmp_path), "--base-port", str(base))
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{base + offset}" in told.stderr


def test_an_unwritable_home_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("in the way")
    told = cortex("up", "--home", str(tmp_path / "file" / "home"), "--base-port", str(free_base_port()))
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "cannot be written" in told.stderr


def test_a_second_up_finds_its_data_and_ctrl_c_ends_everything(tmp_path):
    base = free_base_port()
    passwords = []
    for _ in range(2):
        stack = start_stack(tmp_path / "home", base)
        try:
            stack.read_until("Ctrl-C ends it", 180)
            passwords.append(stack.password)
            family = stack.family()
            assert len(family) >= 8
        finally:
            code = stack.stop()
        assert code == 0
        assert not [process for process in family if process.is_running()]
    assert passwords[0]
    assert passwords[1] is None
    assert (tmp_path / "home" / "cortex.sqlite3").exists()
    assert passwords[0].encode() not in (tmp_path / "home" / "cortex.sqlite3").read_bytes()


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path):
    stack = start_stack(tmp_path / "home", free_base_port())
    stack.read_until("Ctrl-C ends it", 180)
    family = stack.family()
    os.kill(stack.process.pid, signal.SIGKILL)
    stack.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_protected_mode_is_announced(tmp_path):
    stack = start_stack(tmp_path / "home", free_base_port(), "--host", "0.0.0.0")  # noqa: S104 - the point of it
    try:
        stack.read_until("Ctrl-C ends it", 180)
        assert "Protected mode" in stack.text
        assert stack.chat("Hello").status_code == 200
    finally:
        stack.stop()
