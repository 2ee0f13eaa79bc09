"""Private names of transformers and torch look as they did when they were read."""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from neuron.models import private  # noqa: E402
from neuron.models.private import NAMES, READ_AT, PrivateName  # noqa: E402

ROOT = Path(__file__).parents[2]


def signature_of(named: Any) -> str:
    """Return parameters with defaults but without types, an operation's schema, or else the value itself."""
    if isinstance(named, torch._ops.OpOverloadPacket):
        return str(named.default._schema)
    if not inspect.isfunction(named):
        return repr(named)
    parameters = inspect.signature(named).parameters.values()
    return str(inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in parameters]))


def problem(name: PrivateName) -> str | None:
    """Return what a maintainer has to know about a private name that has changed, or None."""
    module, _, attribute = name.path.partition(":")
    library = module.partition(".")[0]
    read_at = " and ".join(READ_AT[library])
    subject = f"{library} {version(library)}: {name.path}, which {name.used_in} uses"
    try:
        found = signature_of(attrgetter(attribute)(importlib.import_module(module)))
    except (ImportError, AttributeError):
        return f"{subject}, is gone; it was read at {read_at}. Find what took its place."
    if found in name.signatures:
        return None
    was = " or ".join(name.signatures)
    return f"{subject}, changed to {found}; at {read_at} it was {was}. Read it again."


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_private_name_is_what_it_was_when_it_was_read(name: PrivateName):
    assert problem(name) is None, problem(name)


def test_a_name_that_is_gone_or_changed_is_named_with_version_and_file():
    gone = PrivateName("transformers.modeling_utils:PreTrainedModel._gone", ("()",), "neuron/models/a.py")
    changed = PrivateName("torch:is_tensor", ("(x)",), "neuron/models/b.py")
    assert problem(gone) == (
        f"transformers {version('transformers')}: transformers.modeling_utils:PreTrainedModel._gone, which "
        "neuron/models/a.py uses, is gone; it was read at 5.17 and 5.23. Find what took its place."
    )
    assert problem(changed) == (
        f"torch {version('torch')}: torch:is_tensor, which neuron/models/b.py uses, changed to (obj, /); "
        "at 2.11 and 2.13 it was (x). Read it again."
    )


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_private_name_is_used_where_the_table_says(name: PrivateName):
    assert (ROOT / name.used_in).is_file()


def test_private_names_are_used_in_one_module_only():
    home = Path(private.__file__)
    parts = [ROOT / "neuron" / part for part in ("device", "models", "worker")]
    others = [path for part in parts for path in part.rglob("*.py") if path != home]
    reaches_in = re.compile(r"noqa: SLF001|getattr\([^)]*[\"']_[a-z]")
    assert [str(path) for path in others if reaches_in.search(path.read_text())] == []
