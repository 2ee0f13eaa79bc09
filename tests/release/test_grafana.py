"""The board of `deploy/grafana`, by Grafana's own schema: Grafana itself is in no package index."""

from __future__ import annotations

import enum
import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from tests.release.conftest import ROOT

BOARD = json.loads((ROOT / "deploy" / "grafana" / "cortex.json").read_text())


def read(board: dict[str, Any]) -> Any:
    """The board as the schema's classes have it."""
    dashboard = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="`make release` installs it"
    )
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    plugins.register_default_plugins()
    return dashboard.Dashboard.from_json(board)


def written(read_board: Any) -> Any:
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    return json.loads(json.dumps(read_board, cls=encoder.JSONEncoder))


def lost(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """The places of what the schema does not know: it is not there when the board is written again."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(ours, list):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(mine, other, f"{place}[{index}]")
    elif ours != theirs:
        yield place


def wrong(value: Any, place: str = "") -> Iterator[str]:
    """The places whose values are of another type than the schema's."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from wrong(each, f"{place}[{index}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk") and not isinstance(value, enum.Enum):
        hints = typing.get_type_hints(type(value))
        for name, each in vars(value).items():
            if name in hints and not fits(each, hints[name]):
                yield f"{place}.{name}: {each!r} is no {hints[name]}"
            yield from wrong(each, f"{place}.{name}")


def fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(fits(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, parts[1]) for each in value.values())
    if not inspect.isclass(hint) or hint is object:
        return True
    if issubclass(hint, enum.Enum):
        return value in {each.value for each in hint}
    if hint in {int, float}:
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def test_the_schema_knows_all_of_the_board():
    board = read(BOARD)
    assert list(lost(BOARD, written(board))) == []
    assert list(wrong(board)) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [({"refersh": "10s"}, ".refersh"), ({"panels": [{"type": "stat", "titel": "x"}]}, ".panels[0].titel")],
)
def test_a_key_that_it_does_not_know_is_found(change: dict[str, Any], place: str):
    board = BOARD | change
    assert list(lost(board, written(read(board)))) == [place]


def test_a_value_of_another_type_is_found():
    board = read(BOARD | {"panels": [{"type": "stat", "title": 3, "gridPos": {"h": "8"}}], "editable": "yes"})
    found = [each.partition(":")[0] for each in wrong(board)]
    assert found == [".editable", ".panels[0].title", ".panels[0].grid_pos.h"]
