"""The tool `search`, which runs ripgrep if it is installed, else `tools.grep`.

Both run as child processes, so that a pattern that backtracks forever times out and does not block the agent.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.read import SKIPPED, fenced
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import location, text_content

MAX_MATCHES_PER_FILE = 200
TIMEOUT_S = 30.0
LIMIT_BYTES = 48 * 1024


class SearchTool:
    kind = "search"
    read_only = True
    spec = spec(
        "search",
        "Find lines that match a regular expression, as path:line:text.",
        ("pattern",),
        pattern={"type": "string"},
        path={"type": "string", "description": "a file or directory; the working directory if absent"},
        glob={"type": "string", "description": "only files whose name matches, such as *.py"},
        ignore_case={"type": "boolean"},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        path = ctx.roots.resolve(args.get("path", "."))
        if "\0" in args["pattern"] or "\0" in args.get("glob", ""):
            raise ToolError("pattern and glob must not hold a null character")
        argv = _argv(args, str(path))

        async def run() -> Outcome:
            ran = await ctx.processes.run(
                argv, str(ctx.roots.cwd), timeout_s=TIMEOUT_S, limit_bytes=LIMIT_BYTES, cancel=ctx.cancel
            )
            if ran.timed_out:
                raise ToolError(f"the search took longer than {TIMEOUT_S:.0f} s")
            if ran.exit_code not in {0, 1}:
                raise ToolError(clip(ran.output.strip() or f"the search ended with {ran.exit_code}", 2000))
            text = ran.output.strip() or "[no match]"
            return Outcome(text, [text_content(fenced(text))])

        return PreparedCall(f"Search {one_line(args['pattern'], 80)}", run, locations=[location(str(path))])


def _argv(args: dict[str, Any], path: str) -> list[str]:
    ripgrep = shutil.which("rg")
    flags = ["--ignore-case"] if args.get("ignore_case") else []
    if ripgrep is None:
        flags += [f"--glob={args['glob']}"] if args.get("glob") else []
        return [sys.executable, "-m", "helexa_acp.tools.grep", *flags, "--", args["pattern"], path]
    flags += ["--no-config", "--no-follow"]  # a link may lead out of the roots
    flags += ["--line-number", "--with-filename", "--no-heading", "--color=never", "--sort=path"]
    flags += [f"--max-count={MAX_MATCHES_PER_FILE}", "--max-columns=500", "--max-columns-preview"]
    flags += [f"--glob={args['glob']}"] if args.get("glob") else []
    flags += [f"--glob=!{name}" for name in sorted(SKIPPED)]
    return [ripgrep, *flags, "--", args["pattern"], path]
