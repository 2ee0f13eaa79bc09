"""The tool `ask`, by which the model asks the user: in a form where the client has forms, else as text.

A text ends the turn, and the user's next message is the answer.
"""

from __future__ import annotations

from typing import Any

from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

MAX_QUESTIONS = 4
MAX_OPTIONS = 10
MAX_ANSWER_CHARS = 10_000
ASKED = "The questions are shown to the user, whose next message answers them."
MESSAGE = "The agent has a question"


class AskTool:
    kind = "other"
    read_only = True  # a question changes nothing
    spec = spec(
        "ask",
        "Ask the user what only they can decide, with options where there are some. Do not ask for "
        "permission, which is asked for by itself, or for passwords and keys.",
        ("questions",),
        questions={
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "question": {"type": "string"},
                    "options": {"type": "array", "items": {"type": "string"}},
                    "several": {"type": "boolean", "description": "several options may be chosen"},
                },
                "required": ["question"],
                "additionalProperties": False,
            },
        },
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        questions = args["questions"]
        _check(questions)

        async def run() -> Outcome:
            if ctx.client.can_fill_forms:
                form = ctx.client.fill_form(ctx.session_id, MESSAGE, _form(questions), ctx.card_id)
                try:
                    action, content = await ctx.cancel.race(form)
                except RpcError:
                    return _as_text(questions, ctx)
                return _answered(questions, action, content or {})
            return _as_text(questions, ctx)

        return PreparedCall(f"Ask: {one_line(questions[0]['question'])}", run)


def _check(questions: list[dict[str, Any]]) -> None:
    """Raises ToolError."""
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise ToolError(f"questions must be 1 to {MAX_QUESTIONS}")
    for question in questions:
        options = question.get("options", [])
        if not question["question"].strip():
            raise ToolError("question is empty")
        if len(options) > MAX_OPTIONS or len(set(options)) < len(options) or not all(map(str.strip, options)):
            raise ToolError(f"options must be at most {MAX_OPTIONS} texts, none of them empty or given twice")


def _form(questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the form's schema: a field for each question, and one for another answer beside its options."""
    properties: dict[str, Any] = {}
    for number, question in enumerate(questions, 1):
        options = question.get("options")
        field: dict[str, Any] = {"type": "string", "title": question["question"]}
        if options and question.get("several"):
            field |= {"type": "array", "items": {"type": "string", "enum": options}}
        elif options:
            field["enum"] = options
        properties[f"answer{number}"] = field
        if options:
            properties[f"other{number}"] = {"type": "string", "title": "Something else"}
    required = [f"answer{n}" for n, question in enumerate(questions, 1) if not question.get("options")]
    return {"type": "object", "properties": properties, "required": required}


def _answered(questions: list[dict[str, Any]], action: str, content: dict[str, Any]) -> Outcome:
    if action != "accept":
        text = "The user declined to answer." if action == "decline" else "The user dismissed the questions."
        return Outcome(text, [text_content(text)])
    lines = []
    for number, question in enumerate(questions, 1):
        given = [_words(content.get(f"{name}{number}")) for name in ("answer", "other")]
        answer = "; ".join(filter(None, given)) or "(no answer)"
        lines.append(f"{question['question']}\n{answer}")
    text = "\n\n".join(lines)
    return Outcome(text, [text_content(text)])


def _words(value: Any) -> str:
    """Return an answer as text. What is no text of a form counts as no answer."""
    items = value if isinstance(value, list) else [value]
    return clip(", ".join(item.strip() for item in items if isinstance(item, str)), MAX_ANSWER_CHARS)


def _as_text(questions: list[dict[str, Any]], ctx: ToolContext) -> Outcome:
    lines = []
    for question in questions:
        lines.append(f"**{question['question']}**")
        lines += [f"- {option}" for option in question.get("options", [])]
        lines.append("")
    ctx.say("\n".join(lines))
    return Outcome(ASKED, [text_content(ASKED)], ends_turn=True)
