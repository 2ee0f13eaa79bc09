"""The families that write calls as tags with keys and values."""

from __future__ import annotations

import re
from typing import Any

from neuron.text.notations.tag_parser import TagSpelling
from neuron.text.notations.tags import TagNotation
from neuron.text.reasoning import ReasoningMarkers

_TAG = re.compile(r"<[^<>{}]*>")
DSML = "｜DSML｜"
FUNCTION: dict[str, Any] = {
    "call": "<function={name}>\n",
    "end": "</function>\n",
    "holds_many": False,
    "is_block_needed": False,
}
INVOKE: dict[str, Any] = {
    "call": '<invoke name="{name}">\n',
    "parameter": '<parameter name="{key}">{value}</parameter>\n',
    "end": "</invoke>\n",
}


def row(
    name: str,
    *,
    tokens: tuple[str, ...] = (),
    thoughts: tuple[str, ...] = ("think",),
    **spelling: Any,
) -> TagNotation:
    """A family's notation. Tags of the spelling are tokens that stay visible, and so are `tokens`.

    `thoughts` are the names of the tags around its reasoning.
    """
    spelled = TagSpelling(**spelling)
    return TagNotation(
        name=name,
        openers=spelled.openers,
        markers=tuple(dict.fromkeys([*_TAG.findall(spelled.text), *tokens])),
        thoughts=tuple(ReasoningMarkers(f"<{tag}>", f"</{tag}>") for tag in thoughts),
        spelling=spelled,
    )


def suffixed_row(name: str, suffix: str) -> TagNotation:
    """Hunyuan 3's notation, in which every tag ends in `suffix`."""
    return row(
        name,
        thoughts=(f"think{suffix}",),
        block=(f"<tool_calls{suffix}>\n", f"</tool_calls{suffix}>"),
        call=f"<tool_call{suffix}>{{name}}<tool_sep{suffix}>\n",
        parameter=(
            f"<arg_key{suffix}>{{key}}</arg_key{suffix}>\n<arg_value{suffix}>{{value}}</arg_value{suffix}>\n"
        ),
        end=f"</tool_call{suffix}>\n",
    )


def _dsml(name: str, *, block: str, gap: str = "") -> TagNotation:
    """DeepSeek's: `string` says whether a value is text."""
    mark = DSML + gap
    return row(
        name,
        tokens=(DSML,),
        block=(f"\n\n<{mark}{block}>\n", f"</{mark}{block}>"),
        call=f'<{mark}invoke name="{{name}}">\n',
        parameter=f'<{mark}parameter name="{{key}}"[ string="{{kind}}"]>{{value}}</{mark}parameter>\n',
        end=f"</{mark}invoke>\n",
        kinds=("true", "false"),
    )


ROWS = (
    row(
        "qwen-xml",  # Qwen3-Coder, Qwen3.5 and 3.6, Nemotron 3, Step 3.5
        block=("<tool_call>\n", "</tool_call>"),
        parameter="<parameter={key}>\n{value}\n</parameter>\n",
        **FUNCTION,
    ),
    row(
        "seed",  # Seed-OSS
        thoughts=("seed:think",),
        block=("<seed:tool_call>\n", "</seed:tool_call>"),
        parameter="<parameter={key}>{value}</parameter>\n",
        **FUNCTION,
    ),
    row(
        "glm",  # GLM 4.5 to 5, Laguna, Ling 3, Spark 2.5; the later ones break no lines
        call="<tool_call>{name}\n",
        parameter="<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
        end="</tool_call>\n",
    ),
    suffixed_row("hy3", ":opensource"),
    row(
        "k2-horizon",
        thoughts=("ifm|think", "ifm|think_fast", "ifm|think_faster"),
        block=("<ifm|tool_calls>\n", "</ifm|tool_calls>"),
        is_block_needed=False,
        call="<ifm|tool_call>{name}\n",
        parameter=(
            "<ifm|arg_key>{key}</ifm|arg_key>[\n<ifm|arg_type>{kind}</ifm|arg_type>]"
            "\n<ifm|arg_value>{value}</ifm|arg_value>\n"
        ),
        end="</ifm|tool_call>\n",
        kinds=("string", ""),
    ),
    row("minimax-m2", block=("<minimax:tool_call>\n", "</minimax:tool_call>"), **INVOKE),
    _dsml("deepseek-v3.2", block="function_calls"),
    _dsml("deepseek-v4", block="tool_calls"),
    _dsml("deepseek-v4.1", block="calls", gap=" "),
    row(
        "step3",
        block=("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
        call='<｜tool_call_begin｜>[function<｜tool_sep｜>]<steptml:invoke name="{name}">',
        parameter='<steptml:parameter name="{key}">{value}</steptml:parameter>',
        end="</steptml:invoke><｜tool_call_end｜>",
        skipped=("<｜tool_sep｜>",),
    ),
    row("dots", block=("<dots_function_call>", "</dots_function_call>"), **INVOKE),
    row(
        "minicpm5",
        call='<function name="{name}">',
        parameter='<param name="{key}">{value}</param>',
        end="</function>\n",
        has_cdata=True,
    ),
)
