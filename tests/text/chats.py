"""Small chats, and templates together with what probing found out about them."""

from __future__ import annotations

from neuron.text.notations.known import NOTATIONS
from neuron.text.template import ChatTemplate
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.text.traits.probing import probe_template
from tests.stubs.model_dir import byte_tokenizer

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def fitted(source):
    template = ChatTemplate(source, {})
    tokens = {token.content for token in byte_tokenizer().get_added_tokens_decoder().values()}
    return FittedTemplate(template, probe_template(template, NOTATIONS.values(), known_tokens=tokens))


def traits(source):
    return fitted(source).traits


def message(role, content, **more):
    return {"role": role, "content": content} | more


def called(*ids, content="", **more):
    calls = [
        {"id": id_, "type": "function", "function": {"name": "weather", "arguments": f'{{"n": {index}}}'}}
        for index, id_ in enumerate(ids)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls} | more


def result(id_, content="rain"):
    return {"role": "tool", "content": content, "tool_call_id": id_}


SYSTEM, USER, ANSWER, NEXT = (message(*pair) for pair in (
    ("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "and then?"),
))  # fmt: skip
DEVELOPER = message("developer", "be brief")
