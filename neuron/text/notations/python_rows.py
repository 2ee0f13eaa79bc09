"""The families whose calls are Python, one row each."""

from __future__ import annotations

from neuron.text.notations.json_rows import THINK
from neuron.text.notations.python_calls import PythonNotation

PYTHONIC = PythonNotation(
    name="pythonic",  # Llama 3.2 and 4, Gemma 3
    openers=("<|python_start|>", "<|python_tag|>"),
    closers=("<|python_end|>",),
    markers=("<|python_start|>", "<|python_end|>", "<|python_tag|>"),
    is_bare=True,
    begin="[",
    end="]",
    separator=", ",
)
LFM2 = PythonNotation(
    name="lfm2",
    openers=("<|tool_call_start|>",),
    closers=("<|tool_call_end|>",),
    markers=("<|tool_call_start|>", "<|tool_call_end|>"),
    thoughts=(THINK,),
    begin="<|tool_call_start|>[",
    end="]<|tool_call_end|>",
    separator=", ",
)
OLMO = PythonNotation(
    name="olmo",
    openers=("<function_calls>",),
    closers=("</function_calls>",),
    markers=("<function_calls>", "</function_calls>"),
    thoughts=(THINK,),
    begin="<function_calls>",
    end="</function_calls>",
    separator="\n",
)

ROWS = (LFM2, OLMO, PYTHONIC)
