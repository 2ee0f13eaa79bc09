"""The names that settings give to the ways in which models write calls and thoughts.

The rooms of the gateway may not import what reads them; a test holds the lists to `neuron.text`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

TOOL_FORMATS = (
    "harmony",
    "qwen-xml",
    "seed",
    "glm",
    "hy3",
    "k2-horizon",
    "minimax-m2",
    "deepseek-v3.2",
    "deepseek-v4",
    "deepseek-v4.1",
    "step3",
    "dots",
    "minicpm5",
    "kimi-k3",
    "muse",
    "minimax-m3",
    "functionary",
    "gemma4",
    "functiongemma",
    "ernie",
    "hermes",
    "longcat",
    "mistral",
    "deepseek-v3",
    "deepseek-v3.1",
    "kimi-k2",
    "solar",
    "cohere",
    "apertus",
    "granite",
    "granite-20b",
    "nemotron",
    "hunyuan",
    "apriel",
    "tool-calls",
    "minimax-m1",
    "internlm2",
    "gigachat",
    "gigachat-3.1",
    "command-r",
    "functionary-3.1",
    "xlam",
    "llama3",
    "llama4",
    "functools",
    "lfm2",
    "olmo",
    "pythonic",
)
REASONING_FORMATS = (
    "none",
    "<think>",
    "[THINK]",
    "<thought>",
    "<reasoning>",
    "<seed:think>",
    "<|START_THINKING|>",
    "◁think▷",
    "<think:opensource>",
    "<ifm|think>",
    "<ifm|think_fast>",
    "<ifm|think_faster>",
    "<mm:think>",
    "<longcat_think>",
    "<|think|>",
    "<|inner_prefix|>",
    "Here are my reasoning steps:",
)


def known_tool_format(name: str) -> str:
    """The name. Raises `ValueError` with the list for an unknown one."""
    return _known(name, TOOL_FORMATS)


def known_reasoning_format(name: str) -> str:
    """The name. Raises `ValueError` with the list for an unknown one."""
    return _known(name, REASONING_FORMATS)


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


ToolFormat = Annotated[str, AfterValidator(known_tool_format)]
ReasoningFormat = Annotated[str, AfterValidator(known_reasoning_format)]
