from __future__ import annotations

from neuron.text.notations.harmony import HarmonyFormat
from neuron.text.notations.hermes import HermesFormat
from neuron.text.notations.llama import LlamaFormat
from neuron.text.notations.mistral import MistralFormat
from neuron.text.notations.notation import ToolFormat
from neuron.text.notations.qwen_xml import QwenXmlFormat

# The first that fits a template is taken, so the more particular come first.
FORMATS: dict[str, ToolFormat] = {
    known.name: known
    for known in (HarmonyFormat(), QwenXmlFormat(), HermesFormat(), MistralFormat(), LlamaFormat())
}


def choose_format(template: str) -> ToolFormat | None:
    return next((known for known in FORMATS.values() if known.fits(template)), None)
