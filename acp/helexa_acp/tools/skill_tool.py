"""The tool `skill`, which reads a skill, or another file of its folder."""

from __future__ import annotations

import asyncio
from typing import Any

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.skills import Skill
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import text_content


class SkillTool:
    kind = "read"
    read_only = True
    spec = spec(
        "skill",
        "Read a skill before doing what it describes; with file, another file of its folder.",
        ("name",),
        name={"type": "string"},
        file={"type": "string"},
    )

    def __init__(self, skills: dict[str, Skill]) -> None:
        self._skills = skills

    async def prepare(self, args: dict[str, Any], _: ToolContext) -> PreparedCall:
        skill = self._skills.get(args["name"])
        if skill is None:
            raise ToolError(f"there is no skill {args['name']!r}; the skills are {', '.join(self._skills)}")
        file = args.get("file")

        async def run() -> Outcome:
            text = clip(await asyncio.to_thread(skill.read, file) if file else await _whole(skill))
            return Outcome(text, [text_content(text)])

        return PreparedCall(f"Skill {skill.name}" + (f": {file}" if file else ""), run)


async def _whole(skill: Skill) -> str:
    files = await asyncio.to_thread(skill.files)
    more = f"\n\nOther files of the skill: {', '.join(files)}" if files else ""
    return f"{skill.text}\n\nThe skill's folder is {skill.folder}{more}"
