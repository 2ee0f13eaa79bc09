"""The families whose notations no other family shares, and their near relatives."""

from __future__ import annotations

from neuron.text.notations.functionary import FunctionaryNotation
from neuron.text.notations.gemma import ChannelNotation, GemmaNotation
from neuron.text.notations.gemma_parser import GemmaMarkers
from neuron.text.notations.minimax_m3 import MiniMaxM3Notation
from neuron.text.notations.minimax_m3_parser import OPEN, SIGN
from neuron.text.notations.section_parser import AnswerSection
from neuron.text.notations.sections import SectionNotation
from neuron.text.notations.tag_parser import TagSpelling
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.wrapped import AnswerMarkers

_GEMMA = GemmaMarkers("<|tool_call>", "<tool_call|>", '<|"|>', ("<|channel>", "<channel|>"), is_typed=True)
_FUNCTION_GEMMA = GemmaMarkers(
    "<start_function_call>", "<end_function_call>", "<escape>", ("", ""), is_typed=False
)

_MUSE_ENDS = ("<|eom|>", "<|eot|>")
_MUSE_HEAD = "[<|start|>assistant]\nto={}<|message|>"

OWN_ROWS = (
    SectionNotation(
        name="kimi-k3",
        openers=("<|open|>tools<|sep|>",),
        markers=("<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>"),
        sections=(
            AnswerSection("thought", "<|open|>think<|sep|>", ("<|close|>think<|sep|>",)),
            AnswerSection("answer", "<|open|>response<|sep|>", ("<|close|>response<|sep|>",)),
            AnswerSection("block", "<|open|>tools<|sep|>", ("<|close|>tools<|sep|>",)),
        ),
        dropped=(
            '<|open|>message role="assistant"<|sep|>',
            "<|close|>message<|sep|>",
            "<|end_of_msg|>",
        ),
        spelling=TagSpelling(
            block=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
            call='<|open|>call tool="{name}" index="{index}"<|sep|>',
            parameter='<|open|>argument key="{key}" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>',
            end="<|close|>call<|sep|>",
            kinds=("string", ""),
        ),
    ),
    SectionNotation(
        name="muse",
        openers=("<atem:function_calls>",),
        markers=("<|start|>", "<|message|>", *_MUSE_ENDS),
        sections=(
            AnswerSection("thought", _MUSE_HEAD.format("self"), _MUSE_ENDS),
            AnswerSection("answer", _MUSE_HEAD.format("user"), _MUSE_ENDS),
            AnswerSection("calls", _MUSE_HEAD.format("{name}"), _MUSE_ENDS),
        ),
        dropped=("<|start|>assistant",),
        spelling=TagSpelling(
            block=("<atem:function_calls>\n", "</atem:function_calls>"),
            holds_many=False,
            call='<atem:invoke name="{name}">\n',
            parameter='<atem:parameter name="{key}">{value}</atem:parameter>\n',
            end="</atem:invoke>\n",
        ),
    ),
    MiniMaxM3Notation(
        name="minimax-m3",
        openers=(OPEN,),
        markers=(SIGN, "<mm:think>", "</mm:think>", "<tool_call>", "</tool_call>", "</invoke>"),
        thoughts=(ReasoningMarkers("<mm:think>", "</mm:think>"),),
    ),
    FunctionaryNotation(
        name="functionary", openers=(">>>",), markers=(">>>",), answers=(AnswerMarkers("all\n"),)
    ),
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
