"""The families whose notations no other family shares, and their near relatives."""

from __future__ import annotations

from neuron.text.notations.gemma import ChannelNotation, GemmaNotation
from neuron.text.notations.gemma_parser import GemmaMarkers

_GEMMA = GemmaMarkers("<|tool_call>", "<tool_call|>", '<|"|>', ("<|channel>", "<channel|>"), is_typed=True)
_FUNCTION_GEMMA = GemmaMarkers(
    "<start_function_call>", "<end_function_call>", "<escape>", ("", ""), is_typed=False
)

OWN_ROWS = (
    ChannelNotation(
        name="gemma4",
        openers=(_GEMMA.open,),
        markers=(_GEMMA.open, _GEMMA.close, _GEMMA.quote, *_GEMMA.channel),
        spelling=_GEMMA,
    ),
    GemmaNotation(
        name="functiongemma",
        openers=(_FUNCTION_GEMMA.open,),
        markers=(_FUNCTION_GEMMA.open, _FUNCTION_GEMMA.close, _FUNCTION_GEMMA.quote),
        spelling=_FUNCTION_GEMMA,
    ),
)
