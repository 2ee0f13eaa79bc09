"""The notations of tool calls that neuron knows, by name."""

from __future__ import annotations

from neuron.text.notations import harmony, json_rows, python_rows
from neuron.text.notations.harmony import HarmonyNotation
from neuron.text.notations.notation import Notation
from neuron.text.notations.qwen_xml import QwenXmlNotation

# The more particular come first: of two that read a template's calls the first is taken.
NOTATIONS: dict[str, Notation] = {
    notation.name: notation
    for notation in (
        HarmonyNotation(name="harmony", openers=harmony.OPENERS, markers=harmony.MARKERS),
        QwenXmlNotation(
            name="qwen-xml",
            openers=("<tool_call>", "<function="),
            markers=("<tool_call>", "</tool_call>"),
            thoughts=(json_rows.THINK,),
        ),
        *json_rows.ROWS,
        *python_rows.ROWS,
    )
}
