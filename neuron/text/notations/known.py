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

# What a template's source must hold, until templates are tried by reading back what they render.
_SIGNS = {
    "harmony": ("<|channel|>", "<|message|>"),
    "qwen-xml": ("<function=", "<parameter="),
    "hermes": ("<tool_call>",),
    "mistral": ("[TOOL_CALLS]",),
    "llama3": ("<|python_tag|>",),
}


def choose_notation(template: str) -> Notation | None:
    """The notation that a chat template asks for; None when it is not a known one."""
    for name, signs in _SIGNS.items():
        if all(sign in template for sign in signs) and not (name == "hermes" and "<arg_key>" in template):
            return NOTATIONS[name]
    is_llama = "<|start_header_id|>" in template and '"parameters"' in template
    return NOTATIONS["llama3"] if is_llama else None
