"""The families whose calls are JSON, one row each."""

from __future__ import annotations

from dataclasses import replace

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.json_calls import JsonNotation
from neuron.text.notations.notation import numbered_id, short_id
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.schema import Schema
from neuron.text.wrapped import AnswerMarkers

THINK = ReasoningMarkers("<think>", "</think>")
RESPONSE = AnswerMarkers("<response>", "</response>")

# --- objects behind a marker ----------------------------------------------------------------------------

HERMES = JsonNotation(
    name="hermes",
    openers=("<tool_call>",),
    closers=("</tool_call>",),
    markers=("<tool_call>", "</tool_call>"),
    thoughts=(THINK,),
    before="<tool_call>\n",
    after="\n</tool_call>",
    separator="\n",
)
ERNIE = replace(HERMES, name="ernie", answers=(RESPONSE,))
LONGCAT = JsonNotation(
    name="longcat",
    openers=("<longcat_tool_call>",),
    closers=("</longcat_tool_call>",),
    markers=("<longcat_tool_call>", "</longcat_tool_call>"),
    thoughts=(ReasoningMarkers("<longcat_think>", "</longcat_think>"), THINK),
    before="<longcat_tool_call>\n",
    after="\n</longcat_tool_call>",
    separator="\n",
)
GRANITE_20B = JsonNotation(
    name="granite-20b",
    openers=("<function_call>",),
    markers=("<function_call>",),
    before="<function_call> ",
    separator="\n",
)
INTERNLM = JsonNotation(
    name="internlm2",
    openers=("<|action_start|> <|plugin|>",),
    closers=("<|action_end|>",),
    markers=("<|action_start|>", "<|plugin|>", "<|action_end|>"),
    arguments_key="parameters",
    before="<|action_start|><|plugin|>\n",
    after="<|action_end|>",
)
GIGACHAT = JsonNotation(
    name="gigachat",
    openers=(
        "<|message_sep|>\n\nfunction call<|role_sep|>",
        "function call<|role_sep|>",
        "<|function_call|>",
    ),
    closers=("<|message_sep|>",),
    markers=("<|message_sep|>", "<|role_sep|>", "<|function_call|>"),
    before="<|message_sep|>\n\nfunction call<|role_sep|>\n",
)
GIGACHAT_31 = replace(GIGACHAT, name="gigachat-3.1", before="<|function_call|>")

# --- a list behind a marker -----------------------------------------------------------------------------

GRANITE = JsonNotation(
    name="granite",
    openers=("<|tool_call|>", "<tool_call>"),
    closers=("</tool_call>",),
    markers=("<|tool_call|>", "<tool_call>", "</tool_call>"),
    thoughts=(THINK,),
    answers=(RESPONSE,),
    begin="<|tool_call|> [ ",
    end=" ]",
    separator=", ",
)
FUNCTOOLS = JsonNotation(
    name="functools",
    openers=("functools [",),
    markers=(),
    is_bare=True,
    begin="functools[ ",
    end=" ]",
    separator=", ",
)
NEMOTRON = JsonNotation(
    name="nemotron",
    openers=("<TOOLCALL>",),
    closers=("</TOOLCALL>",),
    markers=("<TOOLCALL>", "</TOOLCALL>"),
    thoughts=(THINK,),
    begin="<TOOLCALL> [ ",
    end=" ] </TOOLCALL>",
    separator=", ",
)
TOOL_CALLS = JsonNotation(
    name="tool-calls",  # Jamba's
    openers=("<tool_calls>",),
    closers=("</tool_calls>",),
    markers=("<tool_calls>", "</tool_calls>"),
    thoughts=(THINK,),
    begin="<tool_calls> [ ",
    end=" ] </tool_calls>",
    separator=", ",
)
HUNYUAN = replace(TOOL_CALLS, name="hunyuan", answers=(AnswerMarkers("<answer>", "</answer>"),))
APRIEL = replace(
    TOOL_CALLS,
    name="apriel",
    thoughts=(ReasoningMarkers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),),
    answers=(
        AnswerMarkers("", "[END FINAL RESPONSE]"),  # the thought's end is its beginning
        AnswerMarkers("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ),
)
MINIMAX_M1 = replace(
    TOOL_CALLS, name="minimax-m1", begin="<tool_calls>\n", end="\n</tool_calls>", separator="\n"
)
COHERE = JsonNotation(
    name="cohere",
    openers=("<|START_ACTION|>",),
    closers=("<|END_ACTION|>",),
    markers=("<|START_ACTION|>", "<|END_ACTION|>"),
    thoughts=(ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),),
    answers=(
        AnswerMarkers("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        AnswerMarkers("<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    name_key="tool_name",
    arguments_key="parameters",
    first='"tool_call_id": ?"[0-9]{1,4}"',
    begin="<|START_ACTION|> [ ",
    end=" ] <|END_ACTION|>",
    separator=", ",
)
COMMAND_R = JsonNotation(
    name="command-r",
    openers=("Action:",),
    markers=(),
    name_key="tool_name",
    arguments_key="parameters",
    begin="Action: ```json\n[ ",
    end=" ]\n```",
    separator=", ",
)
APERTUS = JsonNotation(
    name="apertus",
    openers=("<|tools_prefix|>",),
    closers=("<|tools_suffix|>",),
    markers=("<|tools_prefix|>", "<|tools_suffix|>"),
    thoughts=(ReasoningMarkers("<|inner_prefix|>", "<|inner_suffix|>"),),
    is_keyed=True,
    begin="<|tools_prefix|> [ ",
    end=" ] <|tools_suffix|>",
    separator=", ",
)

# --- the answer itself ----------------------------------------------------------------------------------

LLAMA = JsonNotation(
    name="llama3",
    openers=("<|python_tag|>", "<function="),
    closers=("</function>",),
    markers=("<|python_tag|>",),
    heads=("{name}>",),
    writes_objects=True,
    is_bare=True,
    arguments_key="parameters",
    separator="; ",
)
LLAMA_4 = replace(LLAMA, name="llama4", separator="\n")
XLAM = JsonNotation(
    name="xlam",
    openers=("<tool_call>", "[TOOL_CALLS]"),
    closers=("</tool_call>",),
    markers=("<tool_call>", "</tool_call>", "[TOOL_CALLS]"),
    thoughts=(THINK,),
    is_bare=True,
    begin="[ ",
    end=" ]",
    separator=", ",
)

# --- a name, then its arguments -------------------------------------------------------------------------

FUNCTIONARY = JsonNotation(
    name="functionary-3.1",
    openers=("<function=",),
    closers=("</function>",),
    markers=("<|python_tag|>",),
    heads=("{name}>",),
    before="<function=",
    after="</function>",
)
DEEPSEEK = JsonNotation(
    name="deepseek-v3",
    openers=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    closers=("```<｜tool▁call▁end｜>", "```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    markers=(
        "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    thoughts=(THINK,),
    heads=(
        "function<｜tool▁sep｜>{name}\n```json\n", "function<｜tool▁sep｜>{name}\n", "{name}<｜tool▁sep｜>",
    ),
    begin="<｜tool▁calls▁begin｜>",
    before="<｜tool▁call▁begin｜>",
    after="\n```<｜tool▁call▁end｜>",
    end="<｜tool▁calls▁end｜>",
    separator="\n",
)  # fmt: skip
DEEPSEEK_31 = replace(
    DEEPSEEK,
    name="deepseek-v3.1",
    heads=DEEPSEEK.heads[::-1],
    after="<｜tool▁call▁end｜>",
    separator="",
)
KIMI_K2 = JsonNotation(
    name="kimi-k2",
    openers=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    closers=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
    markers=(
        "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>",
        "<|tool_call_end|>", "<|tool_calls_section_end|>",
    ),
    thoughts=(THINK,),
    call_id=numbered_id,
    heads=(
        "functions.{name}:{number}<|tool_call_argument_begin|>",
        "{name}:{number}<|tool_call_argument_begin|>",
        "functions.{name}<|tool_call_argument_begin|>",
        "{name}<|tool_call_argument_begin|>",
    ),
    begin="<|tool_calls_section_begin|>",
    before="<|tool_call_begin|>",
    after="<|tool_call_end|>",
    end="<|tool_calls_section_end|>",
)  # fmt: skip
SOLAR = JsonNotation(
    name="solar",
    openers=("<|begin|>assistant<|tool_calls|>", "<|tool_calls|>", "<|tool_call:begin|>"),
    closers=("<|tool_call:end|>", "<|calls|>"),
    markers=(
        "<|begin|>", "<|tool_calls|>", "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>",
        "<|tool_call:end|>", "<|calls|>",
    ),
    thoughts=(ReasoningMarkers("<|think|>", "<|end|>"),),
    answers=(
        AnswerMarkers("<|begin|>assistant<|content|>", "<|end|>"),
        AnswerMarkers("<|content|>", "<|end|>"),
    ),
    heads=("{id}<|tool_call:name|>{name}<|tool_call:args|>",),
    begin="<|tool_calls|>",
    before="<|tool_call:begin|>",
    after="<|tool_call:end|>",
    end="<|calls|>",
)  # fmt: skip


class MistralNotation(JsonNotation):
    """A list, as up to tokenizer 10; or, where `[ARGS]` is a token, a name and its arguments."""

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        if not grammar.knows("[ARGS]"):
            return self.object_of(grammar, name, schema)
        heads = [head.written(grammar, name) for head in self.read_heads[: 1 + grammar.knows("[CALL_ID]")]]
        return f"{grammar.literal('[TOOL_CALLS]')} ({' | '.join(heads)}) {grammar.json(schema)}"

    def between(self, grammar: GrammarBuilder) -> str:
        return "" if grammar.knows("[ARGS]") else super().between(grammar)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return calls if grammar.knows("[ARGS]") else super().enclose(grammar, calls)


MISTRAL = MistralNotation(
    name="mistral",
    openers=("[TOOL_CALLS]",),
    markers=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    thoughts=(ReasoningMarkers("[THINK]", "[/THINK]"),),
    call_id=short_id,
    heads=("{name}[ARGS]", "{name}[CALL_ID]{id}[ARGS]", "{name}[CALL_ID]{id}", "{name}"),
    last='"id": ?"[0-9A-Za-z]{9}"',
    begin="[TOOL_CALLS] [ ",
    end=" ]",
    separator=", ",
)

# The more particular come first, those that need no marker last.
ROWS = (
    ERNIE,
    HERMES,
    LONGCAT,
    MISTRAL,
    DEEPSEEK,
    DEEPSEEK_31,
    KIMI_K2,
    SOLAR,
    COHERE,
    APERTUS,
    GRANITE,
    GRANITE_20B,
    NEMOTRON,
    HUNYUAN,
    APRIEL,
    TOOL_CALLS,
    MINIMAX_M1,
    INTERNLM,
    GIGACHAT,
    GIGACHAT_31,
    COMMAND_R,
    FUNCTIONARY,
    XLAM,
    LLAMA,
    LLAMA_4,
    FUNCTOOLS,
)
