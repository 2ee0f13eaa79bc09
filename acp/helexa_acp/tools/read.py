"""The tools `read` and `list`."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

from helexa_acp.provider.types import ImagePart
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.files import read_bytes
from helexa_acp.tools.roots import Roots
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import MAX_OUTPUT_CHARS, clip
from helexa_acp.v1.updates import image_content, location, text_content

MAX_LINES = 2000
MAX_IMAGE_BYTES = 5 * 1024 * 1024
MAX_ENTRIES = 1000
SKIPPED = {".git", "node_modules", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}

_IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


class ReadTool:
    kind = "read"
    read_only = True
    spec = spec(
        "read",
        f"Read a text file, or look at an image. At most {MAX_LINES} lines; line and limit choose others.",
        ("path",),
        path={"type": "string", "description": "absolute, or relative to the working directory"},
        line={"type": "integer", "minimum": 1, "description": "first line, counted from 1"},
        limit={"type": "integer", "minimum": 1, "description": "number of lines"},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        path = ctx.roots.resolve(args["path"])
        first = args.get("line", 1)
        limit = min(args.get("limit", MAX_LINES), MAX_LINES)

        async def run() -> Outcome:
            if kind := _IMAGES.get(path.suffix.lower()):
                return await asyncio.to_thread(_image, path, kind, sees_images=ctx.sees_images)
            found = await ctx.cancel.race(ctx.files.read(path))
            text = _slice(found.text, first, limit)
            note = f"\n[the file is in {found.encoding}, which edits keep]" if found.note else ""
            return Outcome(text + note, [text_content(fenced(text) + note)])

        return PreparedCall(
            f"Read {ctx.roots.shown(path)}", run, locations=[location(str(path), args.get("line"))]
        )


def _image(path: Path, kind: str, *, sees_images: bool) -> Outcome:
    if not sees_images:
        raise ToolError(f"{path} is an image, which this model does not read")
    encoded = base64.b64encode(read_bytes(path, MAX_IMAGE_BYTES)).decode()
    return Outcome(f"[{path.name}]", [image_content(kind, encoded)], images=(ImagePart(kind, encoded),))


def _slice(text: str, first: int, limit: int) -> str:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    chosen = lines[first - 1 : first - 1 + limit]
    shown = clip("\n".join(chosen), 2 * MAX_OUTPUT_CHARS)
    if len(chosen) == len(lines):
        return shown
    return f"{shown}\n[lines {first} to {first - 1 + len(chosen)} of {len(lines)}]"


def fenced(text: str) -> str:
    """Return the text as a Markdown code block, with a fence that the text does not contain."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


class ListTool:
    kind = "search"
    read_only = True
    spec = spec(
        "list",
        "List a directory, or the files below it that match a glob such as **/*.py.",
        (),
        path={"type": "string", "description": "the working directory if absent"},
        glob={"type": "string"},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        path = ctx.roots.resolve(args.get("path", "."))
        glob = args.get("glob", "")

        async def run() -> Outcome:
            look = _matching if glob else _entries
            text = await asyncio.to_thread(look, path, glob, ctx.roots)
            return Outcome(text, [text_content(fenced(text))])

        title = f"List {ctx.roots.shown(path)}" + (f" {glob}" if glob else "")
        return PreparedCall(title, run, locations=[location(str(path))])


def _entries(path: Path, _: str, roots: Roots) -> str:
    try:
        found = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise ToolError(f"cannot list {path}: {error.strerror or error}") from error
    return _bounded([entry.name + _mark(entry, roots) for entry in found])


def _mark(entry: os.DirEntry[str], roots: Roots) -> str:
    if entry.is_symlink() and not roots.hold(entry.path):
        return "@"
    return "/" if entry.is_dir() else ""


def _matching(path: Path, glob: str, roots: Roots) -> str:
    """Return what matches. Links are followed within the roots only."""
    if Path(glob).is_absolute() or ".." in Path(glob).parts:
        raise ToolError("glob must stay below path")
    lines: list[str] = []
    try:
        for found in path.glob(glob):
            relative = found.relative_to(path)
            if len(lines) <= MAX_ENTRIES and SKIPPED.isdisjoint(relative.parts) and roots.hold(found):
                lines.append(str(relative) + ("/" if found.is_dir() else ""))
    except (OSError, ValueError, NotImplementedError) as error:
        raise ToolError(f"glob {glob!r}: {error}") from error
    return _bounded(sorted(lines))


def _bounded(lines: list[str]) -> str:
    if not lines:
        return "[nothing]"
    more = [f"[more than {MAX_ENTRIES} entries]"] if len(lines) > MAX_ENTRIES else []
    return "\n".join([*lines[:MAX_ENTRIES], *more])
