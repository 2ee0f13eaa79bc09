"""The notations of tool calls that neuron knows, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from neuron.text.notations import harmony, json_rows, python_rows, tag_rows
from neuron.text.notations.harmony import HarmonyNotation
from neuron.text.notations.notation import Notation
from neuron.text.notations.own_rows import OWN_ROWS

# The more particular come first: of two that read a template's calls the first is taken.
NOTATIONS: dict[str, Notation] = {
    notation.name: notation
    for notation in (
        HarmonyNotation(name="harmony", openers=harmony.OPENERS, markers=harmony.MARKERS),
        *tag_rows.ROWS,
        *OWN_ROWS,
        *json_rows.ROWS,
        *python_rows.ROWS,
    )
}

_SUFFIXED = re.compile(r"<tool_calls(:[\w.-]{1,64})>")


def notations_for(tokens: Iterable[str]) -> dict[str, Notation]:
    """NOTATIONS, for a tokenizer with these added tokens: they tell the suffix of Hunyuan 3's tags."""
    suffix = next((found[1] for token in tokens if (found := _SUFFIXED.fullmatch(token))), None)
    return NOTATIONS if suffix is None else NOTATIONS | {"hy3": tag_rows.suffixed_row("hy3", suffix)}
