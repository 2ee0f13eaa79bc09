"""The state directory holds secrets: it is its owner's alone, whoever made it."""

from __future__ import annotations

import os
import stat

import pytest

from cortex_site.base.settings_file import ConfigError
from cortex_site.processes.launch import prepare_home


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
