"""The notations of tool calls that neuron knows, by name."""

from __future__ import annotations

from neuron.text.notations import harmony, mistral
from neuron.text.notations.harmony import HarmonyNotation
from neuron.text.notations.hermes import HermesNotation
from neuron.text.notations.llama import PYTHON_TAG, LlamaNotation
from neuron.text.notations.mistral import MistralNotation
from neuron.text.notations.notation import Notation, short_id
from neuron.text.notations.qwen_xml import QwenXmlNotation

TOOL_CALL = ("<tool_call>", "</tool_call>")

# The first that fits a template is chosen, so the more particular come first.
NOTATIONS: dict[str, Notation] = {
    notation.name: notation
    for notation in (
        HarmonyNotation(name="harmony", openers=harmony.OPENERS, markers=harmony.MARKERS),
        QwenXmlNotation(name="qwen-xml", openers=("<tool_call>", "<function="), markers=TOOL_CALL),
        HermesNotation(name="hermes", openers=TOOL_CALL[:1], markers=TOOL_CALL),
        MistralNotation(
            name="mistral", openers=mistral.MARKERS[:1], markers=mistral.MARKERS, call_id=short_id
        ),
        LlamaNotation(name="llama3", openers=(PYTHON_TAG,), markers=(PYTHON_TAG,)),
    )
}


def choose_notation(template: str) -> Notation | None:
    """The notation that a chat template asks for; None when it is not a known one."""
    return next((notation for notation in NOTATIONS.values() if notation.fits(template)), None)
