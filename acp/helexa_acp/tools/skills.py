"""Skills: folders with a SKILL.md, whose front matter says what the skill is for, and whose text says how.

The model sees the names and descriptions, and reads a skill with the tool `skill` when it needs it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helexa_acp.front_matter import split_front_matter
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.truncation import one_line

log = logging.getLogger(__name__)

FILE = "SKILL.md"
MAX_SKILLS = 100
MAX_DESCRIPTION_CHARS = 500
MAX_FILE_CHARS = 200_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Skill:
    name: str
    description: str
    folder: Path  # with links resolved
    text: str

    def read(self, file: str) -> str:
        """Return a text file of the folder. Raises ToolError."""
        try:
            path = (self.folder / file).resolve()
            if not path.is_relative_to(self.folder):
                raise ToolError(f"{file} is outside the skill's folder")
            if not path.is_file():
                raise ToolError(
                    f"the skill {self.name} has no file {file}; it has: {', '.join(self.files())}"
                )
            with path.open(encoding="utf-8", errors="replace") as opened:
                return opened.read(MAX_FILE_CHARS)
        except (OSError, ValueError) as error:
            raise ToolError(f"cannot read {file}: {error}") from error

    def files(self) -> list[str]:
        """Return the names of the folder's other files, as many as are worth listing."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != FILE)
        return [str(path.relative_to(self.folder)) for path, _ in zip(found, range(50), strict=False)]


@dataclass(frozen=True, slots=True)
class SkillFolder:
    path: Path
    follows_links: bool  # the user's does; in a project, a link would show the model a file from elsewhere


def skill_folders(cwd: str, config: Path) -> list[SkillFolder]:
    """Return where skills lie, the project's before the user's, in the places that other agents use too."""
    project = [Path(cwd) / name / "skills" for name in (".helexa", ".agents", ".claude")]
    home = os.environ.get("HOME")
    user = [Path(home) / name / "skills" for name in (".agents", ".claude")] if home else []
    return [
        *(SkillFolder(path, follows_links=False) for path in project),
        *(SkillFolder(path, follows_links=True) for path in (config / "skills", *user)),
    ]


def find_skills(folders: Iterable[SkillFolder]) -> dict[str, Skill]:
    """Return the skills by name. Of two with one name, that of the first folder counts."""
    found: dict[str, Skill] = {}
    for folder in folders:
        try:
            files = sorted(folder.path.glob(f"*/{FILE}"))
        except OSError as error:
            log.warning("skills in %s are ignored: %s", folder.path, error)
            continue
        for file in files[:MAX_SKILLS]:
            skill = _skill(file, folder)
            if skill is not None and len(found) < MAX_SKILLS:
                found.setdefault(skill.name, skill)
    return found


def _skill(file: Path, folder: SkillFolder) -> Skill | None:
    try:
        inside = folder.follows_links or file.resolve().is_relative_to(folder.path.resolve())
        if not file.is_file() or not inside:
            return None
        with file.open(encoding="utf-8", errors="replace") as opened:
            fields, text = split_front_matter(opened.read(MAX_FILE_CHARS))
    except OSError as error:
        log.warning("skill %s is ignored: %s", file, error)
        return None
    name = fields.get("name") or file.parent.name
    description = one_line(fields.get("description", ""), MAX_DESCRIPTION_CHARS)
    if not _NAME.fullmatch(name) or not description:
        log.warning("skill %s is ignored: it needs a name of letters, digits and -, and a description", file)
        return None
    return Skill(name, description, file.parent.resolve(), text)
