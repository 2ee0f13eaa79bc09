"""Pages in headless Chromium: what they load, and whether everybody can use them, by axe-core."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.admin.control import Control

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "tests" / "e2e" / "clients"  # which pins them
LOOK_S = 900


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page loads when it is opened first, and what axe objects to, in words."""

    kilobytes: float
    violations: list[str]


def look(control: Control, pages: Sequence[str]) -> dict[str, Seen]:
    """Open each page wide and light, then narrow and dark.

    Raises RuntimeError where there is no browser, or it fails.
    """
    node = shutil.which("node")
    if node is None or not (PACKAGES / "node_modules" / "axe-core").is_dir():
        raise RuntimeError(f"no browser: run npm install in {PACKAGES.relative_to(HERE.parents[1])}")
    asked = {
        "url": control.url,
        "session": control.session,
        "pages": pages,
        "chromium": shutil.which("chromium"),
    }
    done = subprocess.run(
        [node, str(PACKAGES / "pages.mjs")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=LOOK_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the browser failed: {done.stderr[-1000:]}")
    told = json.loads(done.stdout)
    return {page: Seen(round(each["bytes"] / 1000, 1), each["violations"]) for page, each in told.items()}
