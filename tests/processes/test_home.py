"""The state directory holds secrets: it is its owner's alone, whoever made it."""

from __future__ import annotations

import os
import stat

import pytest

from cortex_site.base.settings_file import ConfigError
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.processes.launch import plan_serve, plan_up, prepare_home


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o700])
def test_it_is_made_private(tmp_path, before):
    home = tmp_path / "home"
    if before is not None:
        home.mkdir()
        home.chmod(before)
    prepare_home(home)
    assert mode(home) == 0o700
    (home / "secret").write_text("x")
    assert mode(home / "secret") == 0o600


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(ConfigError) as caught:
        prepare_home(place)
    assert str(place) in str(caught.value.lines)
    assert "--home" in str(caught.value.lines)


def config_of(**values) -> CortexConfig:
    listens = dict.fromkeys(("listen", "metrics_listen", "admin_listen"), "127.0.0.1:0")
    return CortexConfig.model_validate({"gateway": listens} | values)


@pytest.mark.parametrize("kept", [True, False])
def test_serve_keeps_log_files_where_it_is_asked_to(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("CORTEX_STATE_DIR", str(tmp_path / "home"))
    plan = plan_serve(config_of(log_files=kept), None)
    try:
        assert plan.logs == (tmp_path / "home" / "logs" if kept else None)
        assert (tmp_path / "home" / "logs").is_dir() is kept
    finally:
        plan.sockets.close()


def test_a_node_of_ones_own_is_not_replaced_in_silence():
    config = config_of(neurons=[{"name": "local", "endpoint": "http://10.0.0.1:13131"}])
    with pytest.raises(ConfigError, match="give yours another name"):
        plan_up(config, None, "127.0.0.1:0")
