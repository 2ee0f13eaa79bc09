"""Conversations about the handbook, as varied as those that a server gets.

A `TrainingCase` is a prompt as OpenAI's messages and the exact text that the model must answer. `Study`
yields cases without end, in random surroundings: system prompts, tools that do not matter, earlier turns,
thinking switched off. `exam` returns the fixed cases that verification asks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron.models.tiny import Handbook, HandbookEntry, TaughtCall
from neuron.models.tiny.tokenizer import END_OF_TURN

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are helexa-tiny.",
    "Answer briefly.",
    "You are a helpful assistant. Answer in one sentence.",
    "You are an assistant for cortex operators. Be exact and friendly.",
    "Be concise.",
    "You are a coding agent. Use the tools when they help.",
]

# What an editor's agent sends with each request: helexa-acp's system prompt and tools, as recorded.
EDITOR: dict[str, Any] = json.loads(Path(__file__).with_name("editor.json").read_text(encoding="utf-8"))
EDITOR_TOOLS = tuple(EDITOR["tools"])
FOLDER = "/home/ann/project"  # of the handbook's results of an editor's tools

WEAK_REPEATS = 4

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """A prompt from `messages`, `tools` and `thinking`, and `target`, the answer without its end token.

    With `whole` the assistant's earlier turns are learned too; they must be what it would answer there.
    """

    messages: tuple[Message, ...]
    target: str
    tools: tuple[Tool, ...] = ()
    thinking: bool = True
    whole: bool = False


def foreign_tool(name: str, description: str, *parameters: str) -> Tool:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


FOREIGN_TOOLS = [
    foreign_tool("read_file", "Read a file", "path"),
    foreign_tool("resize_image", "Make an image smaller or larger", "name", "width"),
    foreign_tool("shell", "Run a command in a shell", "command"),
    foreign_tool("search", "Search the web for a query", "query"),
    foreign_tool("get_time", "The time in a time zone", "zone"),
    foreign_tool("add", "Add two numbers", "a", "b"),
    foreign_tool("send_mail", "Send a mail to somebody", "to", "text"),
]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def called(tool: TaughtCall, content: str) -> tuple[Message, Message]:
    """Return the assistant's call and the turn with its result."""
    call = {"id": "call_0", "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
    return (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": content},
    )


def call_text(tool: TaughtCall) -> str:
    call = {"name": tool.name, "arguments": tool.arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def plain(entry: HandbookEntry, question: str, *, thinking: bool = True) -> TrainingCase:
    thought = f"<think>\n{entry.reasoning}\n</think>\n\n" if entry.reasoning and thinking else ""
    return TrainingCase((user(question),), thought + entry.answer, thinking=thinking)


def tool_rounds(handbook: Handbook, entry: HandbookEntry, question: str) -> list[TrainingCase]:
    """Return the case that makes the call, then one case per taught result."""
    if entry.tool is None:
        return []
    tools = (handbook.tools[entry.tool.name],)
    ask = user(question)
    call = TrainingCase((ask,), call_text(entry.tool), tools)
    return [
        call,
        *(
            TrainingCase((ask, *called(entry.tool, given.content)), given.answer, tools)
            for given in entry.tool.results
        ),
    ]


class Study:
    """Yields training cases without end, in one sequence per seed. Questions in `weak` are more frequent."""

    def __init__(self, handbook: Handbook, seed: int) -> None:
        self.handbook = handbook
        self.random = random.Random(seed)  # noqa: S311 - variety, not secrecy
        self.weak: frozenset[str] = frozenset()
        thoughtful = [entry for entry in handbook.entries if entry.reasoning]
        self.earlier = [
            *handbook.entries,
            *thoughtful * 3,
        ]  # their thoughts are dropped from the history, which is rarer: more of them
        self.all_tools = [*handbook.tools.values(), *FOREIGN_TOOLS]

    def __iter__(self) -> Iterator[TrainingCase]:
        while True:
            deck = [(entry, question) for entry in self.handbook.entries for question in entry.questions]
            deck += [card for card in deck if card[1] in self.weak] * WEAK_REPEATS
            self.random.shuffle(deck)
            for entry, question in deck:
                for case in self._cases(entry, self._typed(question)):
                    yield self._surround(entry, case)

    def _cases(self, entry: HandbookEntry, question: str) -> list[TrainingCase]:
        spoken = plain(entry, question, thinking=self.random.random() < 0.7)
        return [spoken, *tool_rounds(self.handbook, entry, question)]

    def _typed(self, question: str) -> str:
        """Return the question as people type it, sometimes without a capital or without its last mark."""
        chance = self.random.random()
        if chance < 0.06:
            question = question[0].lower() + question[1:]
        if chance > 0.03 and chance < 0.09:
            question = question.rstrip("?.!")
        return question

    def _surround(self, entry: HandbookEntry, case: TrainingCase) -> TrainingCase:
        if self.random.random() < self._editors(entry, case):
            thinking = case.thinking if not case.tools else self.random.random() < 0.7
            return in_editor(case, self._folder(), thinking=thinking)
        earlier = self.random.choices(self.earlier, k=self.random.choice([0, 0, 0, 1, 1, 2]))
        turns = [
            turn for past in earlier for turn in (user(self.random.choice(past.questions)), said(past.answer))
        ]
        messages = (*turns, *case.messages)
        if self.random.random() < 0.5:
            messages = ({"role": "system", "content": self._system()}, *messages)
        thinking = case.thinking if not case.tools else self.random.random() < 0.7
        whole = not any(past.reasoning or past.tool for past in earlier)
        return replace(
            case, messages=messages, tools=self._tools(entry, case), thinking=thinking, whole=whole
        )

    def _editors(self, entry: HandbookEntry, case: TrainingCase) -> float:
        """Return the share of such cases that are asked in an editor, which has tools for some entries."""
        if entry.tool is None or entry.tool.name not in {"write", "edit"}:
            return 0.02
        return 0.5 if case.tools else 0.0

    def _folder(self) -> str:
        words = ["home", "tmp", "work", "src", "project", "code", "x7", "ann", "tmpq3k_z", "1234"]
        return "/" + "/".join(self.random.sample(words, self.random.randint(1, 4)))

    def _system(self) -> str:
        """Return a usual system prompt, or sometimes words that mean nothing here."""
        if self.random.random() < 0.85:
            return self.random.choice(SYSTEM_PROMPTS)
        words = " ".join(entry.answer for entry in self.random.sample(self.handbook.entries, 3)).split()
        return " ".join(self.random.sample(words, min(len(words), self.random.randint(5, 30))))

    def _tools(self, entry: HandbookEntry, case: TrainingCase) -> tuple[Tool, ...]:
        own = entry.tool.name if entry.tool else None
        if not case.tools and self.random.random() > (0.4 if own else 0.15):
            return ()
        others = [tool for tool in self.all_tools if tool["function"]["name"] != own]
        count = self.random.randint(0, 2) if case.tools else self.random.randint(1, 3)
        tools = [self._worded(tool) for tool in (*case.tools, *self.random.sample(others, count))]
        self.random.shuffle(tools)
        return tuple(tools)

    def _worded(self, tool: Tool) -> Tool:
        """Return the tool as another client may describe it, or not describe it: only its name counts."""
        if self.random.random() < 0.7:
            return tool
        words = self._system() if self.random.random() < 0.5 else ""
        worded = tool["function"] | {"description": words}
        if not words:
            del worded["description"]
        return {"type": "function", "function": worded}


def exam(handbook: Handbook, seed: int = 0) -> dict[str, list[TrainingCase]]:
    """Return every question in each surrounding that helexa-tiny promises to cope with, by name."""
    rng = random.Random(seed)  # noqa: S311 - variety, not secrecy
    asked = [(entry, question) for entry in handbook.entries for question in entry.questions]
    bare = [plain(entry, question) for entry, question in asked]
    unthinking = [plain(entry, question, thinking=False) for entry, question in asked]
    system = [with_system(case, rng.choice(SYSTEM_PROMPTS)) for case in bare]
    tools = [replace(case, tools=tuple(rng.sample(FOREIGN_TOOLS, 2))) for case in bare]
    earlier = [replace(case, messages=(*_turns(rng, handbook, 2), *case.messages)) for case in bare]
    rounds = [case for entry, question in asked for case in tool_rounds(handbook, entry, question)]
    edits = [case for case in rounds if case.tools[0]["function"]["name"] in {"write", "edit"}]
    unthinking_rounds = [replace(case, thinking=False) for case in rounds]
    return {
        "bare": bare,
        "thinking off": unthinking,
        "system prompt": system,
        "tools that do not matter": tools,
        "two earlier turns": earlier,
        "tool rounds": rounds,
        "tool rounds, thinking off": unthinking_rounds,
        "in an editor": [in_editor(case, folder) for case in edits for folder in FOLDERS],
    }


FOLDERS = ("/home/ann/project", "/tmp/pytest-of-root/pytest-12/test_acpx0/project", "/srv/x")  # noqa: S108 - names


def in_editor(case: TrainingCase, folder: str, *, thinking: bool = True) -> TrainingCase:
    """Return the case as helexa-acp sends it from `folder`."""
    moved = tuple(_moved(message, folder) for message in case.messages)
    system = {"role": "system", "content": EDITOR["system"].replace("{folder}", folder)}
    own = {tool["function"]["name"] for tool in EDITOR_TOOLS}
    others = tuple(tool for tool in case.tools if tool["function"]["name"] not in own)
    return replace(case, messages=(system, *moved), tools=(*EDITOR_TOOLS, *others), thinking=thinking)


def _moved(message: Message, folder: str) -> Message:
    content = message["content"]
    return message | {"content": content.replace(FOLDER, folder) if content else content}


def with_system(case: TrainingCase, prompt: str) -> TrainingCase:
    return replace(case, messages=({"role": "system", "content": prompt}, *case.messages))


def _turns(rng: random.Random, handbook: Handbook, count: int) -> list[Message]:
    chosen = rng.sample(handbook.entries, count)
    return [turn for entry in chosen for turn in (user(rng.choice(entry.questions)), said(entry.answer))]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of prompt and answer. `learned[i]` says whether the model must produce `ids[i]` itself."""

    question: str
    ids: list[int]
    learned: list[bool]


def encode(tokenizer: Any, case: TrainingCase) -> Encoded:
    prompt: str = tokenizer.apply_chat_template(
        list(case.messages),
        tools=list(case.tools) or None,
        add_generation_prompt=True,
        enable_thinking=case.thinking,
        tokenize=False,
    )
    before: list[int] = tokenizer.encode(prompt)
    answer: list[int] = tokenizer.encode(case.target + END_OF_TURN)
    learned = _spans(tokenizer, before) if case.whole else [False] * len(before)
    question: str = next(turn["content"] for turn in reversed(case.messages) if turn["role"] == "user")
    return Encoded(question, before + answer, learned + [True] * len(answer))


def _spans(tokenizer: Any, ids: list[int]) -> list[bool]:
    """Return which tokens are in a finished assistant turn, its end token included."""
    opening: list[int] = tokenizer.encode("<|im_start|>assistant\n")
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    learned = [False] * len(ids)
    for start in range(len(ids)):
        body = start + len(opening)
        if ids[start:body] == opening and end in ids[body:]:
            stop = ids.index(end, body) + 1
            learned[body:stop] = [True] * (stop - body)
    return learned
