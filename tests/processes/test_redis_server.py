"""Of the servers that are there, the newest stands behind the embedded Redis."""

from __future__ import annotations

import shutil

import pytest

from cortex_site.base.settings_file import ConfigError
from cortex_site.processes import redis_server

WHEELS = redis_server.newest_server()


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put a program on PATH, which has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, told: str, shell: str = shutil.which("sh") or "/bin/sh") -> None:
        (tmp_path / name).write_text(f"#!{shell}\necho '{told}'\n")
        (tmp_path / name).chmod(0o755)

    return write


def test_the_wheels_server_runs_and_is_maintained(put):
    assert redis_server.newest_server() == WHEELS
    assert WHEELS.name.startswith("Valkey 9.")


@pytest.mark.parametrize(
    ("told", "chosen"),
    [
        ("Redis server v=6.2.14 sha=0:0 malloc=libc bits=64 build=1", None),
        ("Redis server v=99.0.1 sha=0:0 malloc=libc bits=64 build=1", "Redis 99.0.1"),
        ("Valkey server v=10.0.0 sha=0:0", "Valkey 10.0.0"),
        ("what?", None),
    ],
)
@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_one_on_the_path_is_taken_if_it_is_newer(put, name, told, chosen):
    put(name, told)
    assert redis_server.newest_server().name == (chosen or WHEELS.name)


def test_without_any_the_cure_is_told(put, monkeypatch):
    monkeypatch.setattr(redis_server.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        redis_server.newest_server()
    assert "cortex[embedded]" in str(caught.value.lines)
