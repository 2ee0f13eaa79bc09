"""A peer that cannot be had is left out with the reason, and one that can is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import peers
from bench.peers import Peer


@pytest.fixture(autouse=True)
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peers, "VENVS", tmp_path)
    return tmp_path


def test_a_program_of_the_system_is_there_or_not():
    assert Peer("python3").is_ready()
    absent = Peer("no-such-program")
    assert not absent.is_ready()
    assert absent.prepare() == "no-such-program is not on PATH"


def test_an_environment_is_made_with_the_package_and_again_for_another_version(environments, monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(peers, "run_quietly", commands.append)
    peer = Peer("peer", "peer[server]==1.0")
    peer.folder.mkdir()
    assert not peer.is_ready()
    assert peer.prepare() == ""
    assert peer.is_ready()
    assert commands[0][1:3] == ["-m", "venv"]
    assert commands[1][-1] == "peer[server]==1.0"
    assert peer.program("python") == str(environments / "peer-server" / "bin" / "python")
    assert not Peer("peer", "peer[server]==2.0").is_ready()


def test_what_pip_says_is_the_reason(monkeypatch):
    def fail(command: list[str]) -> None:
        raise peers.subprocess.CalledProcessError(1, command, stderr="…\nERROR: no such version\n")

    monkeypatch.setattr(peers, "run_quietly", fail)
    assert Peer("peer", "peer==9").prepare() == "peer==9 cannot be installed: ERROR: no such version"
