"""Chat templates in our own words, each with one thing that real ones want or refuse."""

from __future__ import annotations

CALLS = """\
{%- for c in m.tool_calls or [] %}
<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>
{%- endfor %}"""
TOOLS = "{% if tools %}[tools]{{ tools | tojson }}{% endif %}"
TURN = "[{{ m.role }}]{{ m.content or '' }}"
END = "{% if add_generation_prompt %}[assistant]{% endif %}"


def template(*, before="", in_turn="", turn=TURN, calls=CALLS, end=END, tools=TOOLS):
    """A template that prints everything, with what is particular put `before` its turns or `in_turn`."""
    loop = "{%- for m in messages %}" + in_turn + turn + calls + "{%- endfor %}"
    return f"{before}{tools}{loop}{end}"


def refused(condition, reason):
    return f"{{%- if {condition} %}}{{{{ raise_exception('{reason}') }}}}{{%- endif %}}"


LATER_SYSTEM = refused("m.role in ['system', 'developer'] and not loop.first", "The system speaks first")
NO_DEVELOPER = refused("m.role == 'developer'", "Who is that")
ALTERNATING = """\
{%- set ns = namespace(turn='user') %}
{%- for m in messages if m.role in ['user', 'assistant'] and not m.tool_calls %}
{%- if m.role != ns.turn %}{{ raise_exception('Take turns') }}{%- endif %}
{%- set ns.turn = 'assistant' if m.role == 'user' else 'user' %}
{%- endfor %}"""
SINGLE = refused("m.tool_calls and m.tool_calls | length > 1", "One call at a time")
NINE = refused("m.role == 'tool' and m.tool_call_id | length != 9", "Nine characters") + refused(
    "m.tool_calls and m.tool_calls[0].id | length != 9", "Nine characters"
)

PLAIN = template()
STRICT = template(before=ALTERNATING, in_turn=LATER_SYSTEM + NO_DEVELOPER)
HEAD_ONLY = template(in_turn=LATER_SYSTEM)
DROPS_DEVELOPER = template(turn="{% if m.role != 'developer' %}" + TURN + "{% endif %}")
DROPS_SECOND_SYSTEM = template(turn="{% if m.role != 'system' or loop.first %}" + TURN + "{% endif %}")
NO_SYSTEM = template(in_turn=refused("m.role in ['system', 'developer']", "No system"))
SINGLE_CALL = template(in_turn=SINGLE)
NINE_IDS = template(in_turn=NINE)
INDEXED_IDS = template(calls=CALLS.replace("c.function.name", "c.id.split('.')[1].split(':')[0]"))
TEXT_ARGUMENTS = template(
    calls="{% for c in m.tool_calls or [] %}"
    '{{- \'<tool_call>{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{- c.function.arguments + '}</tool_call>' }}"
    "{% endfor %}"
)
REPR_ARGUMENTS = template(calls=CALLS.replace(" | tojson", ""))
NULL_CONTENT = template(calls="{% if m.content is none %}" + CALLS + "{% endif %}")
PARTS = template(turn="[{{ m.role }}]{% for part in m.content or [] %}{{ part['text'] }}{% endfor %}")
NEVER_PRINTS_CALLS = template(
    calls="", tools="{% if tools %}{{ tools | tojson }} Write <tool_call>JSON</tool_call> to call.{% endif %}"
)
NEEDS_A_LIST = template(before="{% for tool in tools %}{{ tool.function.name }}{% endfor %}")
TOOLS_BESIDE_SYSTEM = template(
    tools="", turn=TURN + "{% if tools and m.role == 'system' %}{{ tools | tojson }}{% endif %}"
)
NO_RESULTS = template(in_turn=refused("m.role == 'tool'", "No tools here"))


def thinking(key):
    """A template that prints the thought of an answer under `key`."""
    return template(turn=f"[{{{{ m.role }}}}]{{% if m.{key} %}}<think>{{{{ m.{key} }}}}</think>{{% endif %}}"
                    "{{ m.content or '' }}")  # fmt: skip


THINKING_PART = template(
    turn="[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content or [] %}{% if part.type == 'thinking' %}<think>{{ part.thinking }}</think>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
TOGGLE = template(end="[assistant]{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}")
LEVELS = template(
    before="{% set thinking_effort = thinking_effort | default('high') %}"
    + refused("thinking_effort not in ['low', 'high', 'max']", "low, high or max")
    + "Effort: {{ thinking_effort }}."
)
OPEN_LEVELS = template(
    before="{% if reasoning_effort == 'high' %}Think hard.{% endif %}"
    "{% if reasoning_effort == 'low' %}Be quick.{% endif %}"
)
VERBATIM = template(before="Effort: {{ reasoning_effort | default('medium') }}.")
TOGGLE_AND_LEVEL = template(
    before="{% if thinking and reasoning_effort == 'max' %}Spare no effort.{% endif %}",
    end="[assistant]{{ '<think>' if thinking else '</think>' }}",
)
MODE = template(
    before="{% if thinking_mode in ['disabled', 'adaptive', 'enabled'] %}{{ thinking_mode }}{% endif %}"
)
BUDGET = template(before="{% if thinking_budget is defined and thinking_budget != -1 %}"
                  "At most {{ thinking_budget }} tokens.{% endif %}")  # fmt: skip
OWN_VARIABLE = template(
    before="{% set ns = namespace(enable_thinking=true) %}{% if ns.enable_thinking %}!{% endif %}"
)
