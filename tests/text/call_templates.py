"""How each family's template writes calls, in small templates made for the tests."""

from __future__ import annotations

import json
from typing import Any

import jinja2

Calls = list[tuple[str, dict[str, Any]]]

_GLM = (
    "{% for name, arguments in calls %}<tool_call>{{ name }}BREAK{% for k, v in arguments.items() %}"
    "<arg_key>{{ k }}</arg_key>BREAK<arg_value>{{ v | plain }}</arg_value>BREAK{% endfor %}</tool_call>BREAK"
    "{% endfor %}"
)
_INVOKES = (
    'OPEN{% for name, arguments in calls %}<PREinvoke name="{{ name }}">\n'
    '{% for k, v in arguments.items() %}<PREparameter name="{{ k }}"KIND>{{ v | plain }}</PREparameter>\n'
    "{% endfor %}</PREinvoke>\n{% endfor %}CLOSE"
)


def _invokes(opening: str, closing: str, prefix: str = "", kind: str = "") -> str:
    found = _INVOKES.replace("OPEN", opening).replace("CLOSE", closing)
    return found.replace("PRE", prefix).replace("KIND", kind)


_DSML_KIND = " string=\"{{ 'true' if v is string else 'false' }}\""
_SUFFIXED = (
    "<tool_calls:x>\n{% for name, arguments in calls %}<tool_call:x>{{ name }}<tool_sep:x>\n"
    "{% for k, v in arguments.items() %}<arg_key:x>{{ k }}</arg_key:x>\n"
    "<arg_value:x>{{ v | plain }}</arg_value:x>\n{% endfor %}</tool_call:x>\n{% endfor %}</tool_calls:x>"
)
_K3 = (
    "<|open|>tools<|sep|>{% for name, arguments in calls %}"
    '<|open|>call tool="{{ name }}" index="{{ loop.index }}"<|sep|>{% for k, v in arguments.items() %}'
    '<|open|>argument key="{{ k }}" type="{{ v | kind }}"<|sep|>{{ v | plain }}<|close|>argument<|sep|>'
    "{% endfor %}<|close|>call<|sep|>{% endfor %}<|close|>tools<|sep|><|close|>message<|sep|>"
)
_MUSE = (
    "{% for name, arguments in calls %}{{ '' if loop.first else '<|eom|><|start|>assistant' }}"
    ' to={{ name }}<|message|><atem:function_calls>\n<atem:invoke name="{{ name }}">\n'
    '{% for k, v in arguments.items() %}<atem:parameter name="{{ k }}">{{ v | plain }}</atem:parameter>\n'
    "{% endfor %}</atem:invoke>\n</atem:function_calls>{% endfor %}<|eot|>"
)
_M3 = (
    "{% macro xml(v) %}{% if v is mapping %}{% for k, x in v.items() %}]<]minimax[>[<{{ k }}>{{ xml(x) }}"
    "]<]minimax[>[</{{ k }}>{% endfor %}{% elif v is string or v is not iterable %}{{ v | plain }}"
    "{% else %}{% for x in v %}]<]minimax[>[<item>{{ xml(x) }}]<]minimax[>[</item>{% endfor %}{% endif %}"
    "{% endmacro %}]<]minimax[>[<tool_call>\n{% for name, arguments in calls %}"
    ']<]minimax[>[<invoke name="{{ name }}">{{ xml(arguments) }}]<]minimax[>[</invoke>\n{% endfor %}'
    "]<]minimax[>[</tool_call>"
)
_GEMMA = (
    '{% macro value(v) %}{% if v is string %}<|"|>{{ v }}<|"|>{% elif v is mapping %}{{ object(v) }}'
    "{% elif v is iterable %}[{% for x in v %}{{ value(x) }}{{ '' if loop.last else ',' }}{% endfor %}]"
    "{% else %}{{ v | plain }}{% endif %}{% endmacro %}{% macro object(v) %}{{ '{' }}"
    "{% for k, x in v | dictsort %}{{ k }}:{{ value(x) }}{{ '' if loop.last else ',' }}{% endfor %}}"
    "{% endmacro %}{% for name, arguments in calls %}<|tool_call>call:{{ name }}{{ object(arguments) }}"
    "<tool_call|>{% endfor %}"
)

TEMPLATES = {
    "qwen-xml": (
        "{% for name, arguments in calls %}<tool_call>\n<function={{ name }}>\n"
        "{% for k, v in arguments.items() %}<parameter={{ k }}>\n{{ v | plain }}\n</parameter>\n{% endfor %}"
        "</function>\n</tool_call>\n{% endfor %}"
    ),
    "seed": (
        "{% for name, arguments in calls %}<seed:tool_call>\n<function={{ name }}>\n"
        "{% for k, v in arguments.items() %}<parameter={{ k }}>{{ v }}</parameter>\n{% endfor %}"
        "</function>\n</seed:tool_call>\n{% endfor %}"
    ),
    "glm": _GLM.replace("BREAK", "\n"),
    "glm without line breaks": _GLM.replace("BREAK", ""),
    "hy3": _SUFFIXED.replace(":x", ":opensource"),
    "k2-horizon": (
        "<ifm|tool_calls>\n{% for name, arguments in calls %}<ifm|tool_call>{{ name }}\n"
        "{% for k, v in arguments.items() %}<ifm|arg_key>{{ k }}</ifm|arg_key>\n"
        "<ifm|arg_type>{{ v | kind }}</ifm|arg_type>\n<ifm|arg_value>{{ v | plain }}</ifm|arg_value>\n"
        "{% endfor %}</ifm|tool_call>\n{% endfor %}</ifm|tool_calls>"
    ),
    "minimax-m2": _invokes("<minimax:tool_call>\n", "</minimax:tool_call>"),
    "deepseek-v3.2": _invokes(
        "\n\n<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>", "｜DSML｜", _DSML_KIND
    ),
    "deepseek-v4": _invokes("\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>", "｜DSML｜", _DSML_KIND),
    "deepseek-v4.1": _invokes("\n\n<｜DSML｜ calls>\n", "</｜DSML｜ calls>", "｜DSML｜ ", _DSML_KIND),
    "step3": (
        "<｜tool_calls_begin｜>{% for name, arguments in calls %}<｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="{{ name }}">{% for k, v in arguments.items() %}'
        '<steptml:parameter name="{{ k }}">{{ v | plain }}</steptml:parameter>{% endfor %}'
        "</steptml:invoke><｜tool_call_end｜>{% endfor %}<｜tool_calls_end｜>"
    ),
    "dots": _invokes("<dots_function_call>", "</dots_function_call>"),
    "minicpm5": (
        '{% for name, arguments in calls %}<function name="{{ name }}">{% for k, v in arguments.items() %}'
        '<param name="{{ k }}">{% if v is string and ("<" in v or "\n" in v) %}<![CDATA[{{ v }}]]>'
        "{% else %}{{ v }}{% endif %}</param>{% endfor %}</function>\n{% endfor %}"
    ),
    "kimi-k3": _K3,
    "muse": _MUSE,
    "minimax-m3": _M3,
    "gemma4": _GEMMA,
    "functiongemma": (
        "{% for name, arguments in calls %}<start_function_call>call:{{ name }}{{ '{' }}"
        "{% for k, v in arguments.items() %}{{ k }}:<escape>{{ v }}<escape>"
        "{{ '' if loop.last else ',' }}{% endfor %}}<end_function_call>{% endfor %}"
    ),
    "functionary": (
        "{% for name, arguments in calls %}{{ '' if loop.first else '>>>' }}{{ name }}\n"
        "{{ arguments | plain }}{% endfor %}"
    ),
}


def _kind(value: Any) -> str:
    names = {str: "string", dict: "object", list: "array", bool: "boolean"}
    return names.get(type(value), "null" if value is None else "number")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_ENVIRONMENT = jinja2.Environment(keep_trailing_newline=True, autoescape=False)  # noqa: S701
_ENVIRONMENT.filters |= {"plain": _plain, "kind": _kind}
_COMPILED = {name: _ENVIRONMENT.from_string(source) for name, source in TEMPLATES.items()}


def written(template: str, calls: Calls) -> str:
    """The calls as the family's template writes them."""
    return _COMPILED[template].render(calls=calls)


def notation_of(template: str) -> str:
    """The name of the notation that reads the template."""
    return template.partition(" ")[0]
