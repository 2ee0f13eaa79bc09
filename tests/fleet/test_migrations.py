"""A start of this version on the database of each earlier one keeps what is in it.

`python -m tests.fleet.databases.make VERSION` writes the database of a release. Those from before the first
release are of the code of their day.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

DATABASES = sorted((Path(__file__).parent / "databases").glob("*.sql"), key=lambda path: path.name)


def tables(database: sqlite3.Connection) -> dict[str, tuple[list[str], list[tuple]]]:
    """The columns and rows of each table of ours."""
    found = {}
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'fleet_%'")
    for (name,) in names.fetchall():
        rows = database.execute(f'SELECT * FROM "{name}" ORDER BY id')  # noqa: S608 - names of our tables
        found[name] = [column[0] for column in rows.description], rows.fetchall()
    return found


def test_there_is_a_database_to_migrate():
    assert DATABASES


@pytest.mark.parametrize("dump", DATABASES, ids=lambda path: path.stem)
def test_a_start_migrates_and_keeps_every_row(tmp_path, dump):
    with closing(sqlite3.connect(tmp_path / "cortex.sqlite3")) as database:
        database.executescript(dump.read_text())
        before = tables(database)
    ended = subprocess.run(
        [sys.executable, "-m", "cortex_site.site.prepare"],
        env=os.environ | {"CORTEX_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["step"] == "ready"
    with closing(sqlite3.connect(tmp_path / "cortex.sqlite3")) as database:
        after = tables(database)
    assert all(rows for _, rows in before.values())
    for name, (columns, rows) in before.items():
        kept = [column for column in columns if column in after[name][0]]
        assert values(columns, rows, kept) == values(*after[name], kept), name


def values(columns: list[str], rows: list[tuple], wanted: list[str]) -> list[tuple]:
    places = [columns.index(column) for column in wanted]
    return [tuple(row[place] for place in places) for row in rows]
