"""A small grep for machines without ripgrep. Like ripgrep, it follows no links.

python -m helexa_acp.tools.grep [--ignore-case] [--glob=GLOB] -- PATTERN PATH
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from helexa_acp.tools.read import SKIPPED
from helexa_acp.tools.text_file import decode

MAX_FILE_BYTES = 5 * 1024 * 1024
MAX_LINE_CHARS = 500


def files(root: Path, glob: str | None) -> Iterator[Path]:
    """Yield the files below `root` whose name matches, without links, sorted by directory."""
    if root.is_file():
        yield root
        return
    for folder, names, found in os.walk(root):
        names[:] = sorted(name for name in names if name not in SKIPPED)
        for name in sorted(found):
            path = Path(folder) / name
            if (glob is None or fnmatch.fnmatch(name, glob)) and not path.is_symlink():
                yield path


def main(argv: list[str]) -> int:
    split = argv.index("--")
    flags = argv[:split]
    pattern, root = argv[split + 1 :]
    glob = next((flag.removeprefix("--glob=") for flag in flags if flag.startswith("--glob=")), None)
    try:
        regex = re.compile(pattern, re.IGNORECASE if "--ignore-case" in flags else 0)
    except re.error as error:
        sys.stdout.write(f"the pattern is not a regular expression: {error}\n")
        return 2
    found = False
    for path in files(Path(root), glob):
        for number, line in _lines(path):
            if regex.search(line):
                found = True
                sys.stdout.write(f"{path}:{number}:{line[:MAX_LINE_CHARS]}\n")
    return 0 if found else 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
    except OSError:
        return
    found = decode(data)
    if found is not None:
        yield from enumerate(found.text.split("\n"), 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
