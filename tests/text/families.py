"""Small templates of our own, one for each family: what it writes for an assistant's calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from neuron.text.template import ChatTemplate

Calls = Sequence[tuple[str, dict[str, Any]]]

OBJECT = '{"name": "{{ n }}", "arguments": {{ a }}}'
PARAMETERS = '{"name": "{{ n }}", "parameters": {{ a }}}'
WITH_ID = '{"name": "{{ n }}", "arguments": {{ a }}, "id": "call{{ 12345 + loop.index }}"}'
COMMAND = '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ n }}", "parameters": {{ a }}}'
TOOL_NAME = '{"tool_name": "{{ n }}", "parameters": {{ a }}}'


def each(call: str, between: str = "", *, begin: str = "", end: str = "") -> str:
    """The template of calls, each with its name `n` and its arguments `a`."""
    loop = "{% for c in calls %}{% set n = c.name %}{% set a = c.arguments | tojson %}"
    return f"{begin}{loop}{call}{{% if not loop.last %}}{between}{{% endif %}}{{% endfor %}}{end}"


DEEPSEEK = {"begin": "<｜tool▁calls▁begin｜>", "end": "<｜tool▁calls▁end｜>"}
TEMPLATES = {
    "hermes": each(f"<tool_call>\n{OBJECT}\n</tool_call>", "\n"),
    "ernie": each(f"<tool_call>\n{OBJECT}\n</tool_call>\n"),
    "longcat": each(f"<longcat_tool_call>\n{OBJECT}\n</longcat_tool_call>", "\n"),
    "granite-20b": each(f"<function_call> {OBJECT}", "\n"),
    "internlm2": each(f"<|action_start|><|plugin|>\n{PARAMETERS}<|action_end|>"),
    "gigachat": each(f"<|message_sep|>\n\nfunction call<|role_sep|>\n{OBJECT}"),
    "gigachat-3.1": each(f"<|function_call|>{OBJECT}"),
    "granite": each(OBJECT, ",\n    ", begin="<|tool_call|>[\n    ", end="\n]"),
    "functools": each(OBJECT, ", ", begin="functools[", end="]"),
    "nemotron": each(OBJECT, ", ", begin="<TOOLCALL>[", end="]</TOOLCALL>"),
    "tool-calls": each(OBJECT, ",\n", begin="<tool_calls>[\n", end="\n]</tool_calls>"),
    "hunyuan": each(OBJECT, ", ", begin="<tool_calls>[", end="]</tool_calls>"),
    "apriel": each(OBJECT, ", ", begin="\n<tool_calls>[", end="]</tool_calls>"),
    "minimax-m1": each(OBJECT, "\n", begin="<tool_calls>\n", end="\n</tool_calls>"),
    "cohere": each(COMMAND, ",\n    ", begin="<|START_ACTION|>[\n    ", end="\n]<|END_ACTION|>"),
    "command-r": each(TOOL_NAME, ",\n    ", begin="Action: ```json\n[\n    ", end="\n]```"),
    "apertus": each(
        '{"{{ n }}": {{ a }}}', ", ", begin="<|tools_prefix|>[", end="]<|tools_suffix|>"
    ),
    "llama3": each(PARAMETERS, "; "),
    "llama4": each(PARAMETERS, "\n"),
    "xlam": each(OBJECT, ", ", begin="[", end="]"),
    "functionary-3.1": each("<function={{ n }}>{{ a }}</function>"),
    "deepseek-v3": each(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ n }}\n```json\n{{ a }}\n```<｜tool▁call▁end｜>",
        "\n", **DEEPSEEK,
    ),
    "deepseek-v3.1": each(
        "<｜tool▁call▁begin｜>{{ n }}<｜tool▁sep｜>{{ a }}<｜tool▁call▁end｜>", **DEEPSEEK
    ),
    "kimi-k2": each(
        "<|tool_call_begin|>functions.{{ n }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
        "{{ a }}<|tool_call_end|>",
        begin="<|tool_calls_section_begin|>", end="<|tool_calls_section_end|>",
    ),
    "solar": each(
        "<|tool_call:begin|>call12345<|tool_call:name|>{{ n }}<|tool_call:args|>{{ a }}<|tool_call:end|>",
        begin="<|tool_calls|>", end="<|calls|>",
    ),
    "mistral": each("[TOOL_CALLS]{{ n }}[CALL_ID]call12345[ARGS]{{ a }}"),
}  # fmt: skip
MISTRAL_LIST = each(WITH_ID, ", ", begin="[TOOL_CALLS] [", end="]")


def rendered(template: str, calls: Calls) -> str:
    listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return ChatTemplate(template, {}).render([], variables={"calls": listed})


def _pythonic(value: Callable[[Any], str], calls: Calls) -> list[str]:
    return [f"{name}({', '.join(f'{key}={value(v)}' for key, v in a.items())})" for name, a in calls]


def written(family: str, calls: Calls) -> str:
    """The calls as that family writes them; nothing for none."""
    if family in TEMPLATES or not calls:
        return rendered(TEMPLATES[family], calls) if calls else ""
    if family == "olmo":
        as_json = "\n".join(_pythonic(lambda value: json.dumps(value, ensure_ascii=False), calls))
        return f"<function_calls>{as_json}</function_calls>"
    body = f"[{', '.join(_pythonic(repr, calls))}]"
    return f"<|tool_call_start|>{body}<|tool_call_end|>" if family == "lfm2" else body
