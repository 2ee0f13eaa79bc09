"""The tool `plan`, which shows the steps of the work to the user."""

from __future__ import annotations

from typing import Any

from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec

MAX_ENTRIES = 100


class PlanTool:
    kind = "think"
    read_only = True
    spec = spec(
        "plan",
        "Show the steps of the work and how far they are. Send all of them each time.",
        ("entries",),
        entries={
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "content": {"type": "string"},
                    "priority": {"type": "string", "enum": ["high", "medium", "low"]},
                    "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]},
                },
                "required": ["content", "status"],
                "additionalProperties": False,
            },
        },
    )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        entries = [{"priority": "medium", **entry} for entry in args["entries"][:MAX_ENTRIES]]

        async def run() -> Outcome:
            ctx.set_plan(entries)
            return Outcome(f"The plan has {len(entries)} steps.")

        done = sum(entry["status"] == "completed" for entry in entries)
        return PreparedCall(f"Plan: {done} of {len(entries)} steps done", run)
