"""The notations of tool calls that neuron knows, by name."""

from __future__ import annotations

from neuron.text.notations.harmony import HarmonyNotation
from neuron.text.notations.hermes import HermesNotation
from neuron.text.notations.llama import LlamaNotation
from neuron.text.notations.mistral import MistralNotation
from neuron.text.notations.notation import ToolNotation
from neuron.text.notations.qwen_xml import QwenXmlNotation

# The first that fits a template is chosen, so the more particular come first.
NOTATIONS: dict[str, ToolNotation] = {
    notation.name: notation
    for notation in (
        HarmonyNotation(),
        QwenXmlNotation(),
        HermesNotation(),
        MistralNotation(),
        LlamaNotation(),
    )
}


def choose_notation(template: str) -> ToolNotation | None:
    """The notation that a chat template asks for; None when it is not a known one."""
    return next((notation for notation in NOTATIONS.values() if notation.fits(template)), None)
