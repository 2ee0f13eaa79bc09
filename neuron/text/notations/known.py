from __future__ import annotations

from neuron.text.notations.harmony import HarmonyNotation
from neuron.text.notations.hermes import HermesNotation
from neuron.text.notations.llama import LlamaNotation
from neuron.text.notations.mistral import MistralNotation
from neuron.text.notations.notation import ToolNotation
from neuron.text.notations.qwen_xml import QwenXmlNotation

# The first that fits a template is taken, so the more particular come first.
NOTATIONS: dict[str, ToolNotation] = {
    known.name: known
    for known in (HarmonyNotation(), QwenXmlNotation(), HermesNotation(), MistralNotation(), LlamaNotation())
}


def choose_notation(template: str) -> ToolNotation | None:
    return next((known for known in NOTATIONS.values() if known.fits(template)), None)
