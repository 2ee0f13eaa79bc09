"""The tool `background`, for the commands that `shell` has started in the background."""

from __future__ import annotations

from typing import Any

from helexa_acp.tools.processes import ProcessResult
from helexa_acp.tools.read import fenced
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import text_content

DEFAULT_WAIT_S = 60
MAX_WAIT_S = 1800
ACTIONS = ("list", "output", "wait", "stop")


class BackgroundTool:
    kind = "execute"
    read_only = False  # but it needs no permission: the command has got one
    spec = spec(
        "background",
        "Background commands: list them, get new output, wait for the end (timeout_s), or stop one.",
        ("action",),
        action={"type": "string", "enum": list(ACTIONS)},
        id={"type": "string", "description": "for all but list"},
        timeout_s={"type": "integer", "minimum": 1},
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        if args["action"] == "list":
            return PreparedCall("Background commands", lambda: _listed(ctx))
        command = ctx.background.find(args.get("id", ""))

        async def run() -> Outcome:
            match args["action"]:
                case "wait":
                    timeout_s = min(args.get("timeout_s", DEFAULT_WAIT_S), MAX_WAIT_S)
                    result = await ctx.background.wait(command, timeout_s, ctx.cancel)
                case "stop":
                    result = await ctx.background.stop(command)
                case _:
                    result = await ctx.background.look(command)
            return _outcome(result)

        verb = {"output": "Output of", "wait": "Wait for", "stop": "Stop"}[args["action"]]
        return PreparedCall(f"{verb} {command.id}: {command.command}", run)


async def _listed(ctx: ToolContext) -> Outcome:
    text = "\n".join(ctx.background.all()) or "[none was started]"
    return Outcome(text, [text_content(fenced(text))])


def _outcome(result: ProcessResult) -> Outcome:
    if result.signal:
        state = f"ended by signal {result.signal}"
    elif result.exit_code is not None:
        state = f"ended with exit code {result.exit_code}"
    else:
        state = "still running"
    text = f"{clip(result.output).rstrip()}\n[{state}]".lstrip()
    raw = {"exitCode": result.exit_code, "signal": result.signal}
    return Outcome(text, [text_content(fenced(text))], raw=raw)
