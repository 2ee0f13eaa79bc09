"""Takes the JSON Schema Test Suite out of a jsonschema-*.tar.gz: python -m bench.schemas.vendor SDIST

Writes `suite.jsonl`, a line per group of the required tests of the drafts that are measured. The suite's
licence is in `suite.LICENSE`.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

DRAFTS = ("draft7", "draft2020-12")
OUT = Path(__file__).with_name("suite.jsonl")


def main(sdist: str) -> None:
    lines: list[str] = []
    with tarfile.open(sdist) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            _, _, path = member.name.partition("/json/tests/")
            draft, _, file = path.partition("/")
            if draft in DRAFTS and "/" not in file and file.endswith(".json"):
                content = archive.extractfile(member)
                assert content
                lines += (_line(draft, file.removesuffix(".json"), group) for group in json.load(content))
    OUT.write_text("\n".join(lines) + "\n")


def _line(draft: str, keyword: str, group: dict[str, object]) -> str:
    kept = {name: group[name] for name in ("description", "schema", "tests")}
    return json.dumps({"draft": draft, "keyword": keyword, **kept})


if __name__ == "__main__":
    main(*sys.argv[1:])
