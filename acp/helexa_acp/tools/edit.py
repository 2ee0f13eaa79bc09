"""The tools `write` and `edit`, which show their change as a diff before they ask for permission.

A file keeps its encoding. A character that the encoding lacks is refused before anything is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helexa_acp.tools.changes import shown_change
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.read import fenced
from helexa_acp.tools.text_file import FileText
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.v1.updates import text_content

_PATH = {"type": "string", "description": "absolute, or relative to the working directory"}


class WriteTool:
    kind = "edit"
    read_only = False
    spec = spec(
        "write",
        "Write a whole file, new or in place of the old one. To change a part of a file, use edit.",
        ("path", "content"),
        path=_PATH,
        content={"type": "string"},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        path = ctx.roots.resolve(args["path"])
        old = await ctx.files.read_or_none(path)
        return _job("Write", path, old, args["content"], ctx)


class EditTool:
    kind = "edit"
    read_only = False
    spec = spec(
        "edit",
        "Replace text in a file. old_text must occur exactly once: give enough lines around the change.",
        ("path", "old_text", "new_text"),
        path=_PATH,
        old_text={"type": "string"},
        new_text={"type": "string"},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        path = ctx.roots.resolve(args["path"])
        old = await ctx.files.read(path)
        return _job("Edit", path, old, replace_once(old.text, args["old_text"], args["new_text"]), ctx)


def replace_once(text: str, old: str, new: str) -> str:
    """Return the text with `old` replaced. Raises ToolError unless `old` occurs exactly once.

    In a file with CRLF line ends, LF in the arguments stands for CRLF.
    """
    if not old:
        raise ToolError("old_text is empty")
    if "\r\n" in text and "\r\n" not in old:
        old = old.replace("\n", "\r\n")
        new = new.replace("\r\n", "\n").replace("\n", "\r\n")
    if old == new:
        raise ToolError("old_text and new_text are the same")
    count = text.count(old)
    if count == 0:
        raise ToolError("old_text does not occur in the file; read it again, white space counts")
    if count > 1 or text.find(old, text.find(old) + 1) >= 0:
        raise ToolError("old_text occurs more than once; add lines around it until it is unique")
    return text.replace(old, new)


def _job(verb: str, path: Path, old: FileText | None, new: str, ctx: ToolContext) -> PreparedCall:
    changed = (old or FileText("")).with_text(new)
    after = changed.data
    shown = shown_change(str(path), old.text if old else None, new)

    async def run() -> Outcome:
        if await ctx.cancel.race(ctx.files.read_or_none(path)) != old:
            raise ToolError(f"{path} changed while this call waited; read it again")
        before = None if old is None else await ctx.files.copy_of(path, old)
        await ctx.keep_copy(path, before, after)
        await ctx.cancel.race(ctx.files.write(path, changed))
        text = f"{path} is written ({len(new.splitlines())} lines{changed.note})"
        said = await ctx.diagnose(path, new)
        return (
            Outcome(f"{text}\n{said}", [*shown.content, text_content(fenced(said))])
            if said
            else Outcome(text)
        )

    rules = (PermissionRule("edit", "exact", str(path)), PermissionRule("edit", "under", str(ctx.roots.cwd)))
    return PreparedCall(
        f"{verb} {ctx.roots.shown(path)}{changed.note}",
        run,
        () if ctx.roots.is_plan(path) else (Permission("edit", str(path), rules),),
        shown.content,
        shown.locations,
    )
