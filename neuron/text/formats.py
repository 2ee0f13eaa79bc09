from __future__ import annotations

from neuron.text.harmony import HarmonyFormat
from neuron.text.hermes import HermesFormat
from neuron.text.llama import LlamaFormat
from neuron.text.mistral import MistralFormat
from neuron.text.qwen_xml import QwenXmlFormat
from neuron.text.tools import ToolFormat

# The first that fits a template is taken, so the more particular come first.
FORMATS: dict[str, ToolFormat] = {
    known.name: known
    for known in (HarmonyFormat(), QwenXmlFormat(), HermesFormat(), MistralFormat(), LlamaFormat())
}


def choose_format(template: str) -> ToolFormat | None:
    return next((known for known in FORMATS.values() if known.fits(template)), None)
