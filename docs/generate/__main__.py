"""`python -m docs.generate SITE MAN`: the site's source into one folder, man pages into another.

Beside SITE comes the site's configuration.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from docs.generate import api

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
OUTSIDE = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}  # pages from elsewhere
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")


def main(site: Path, man: Path) -> None:
    described = api.pages()  # first: it sets Django up for the gateway, and neuron would for itself
    from docs.generate import commands, settings  # noqa: PLC0415

    write(man, commands.man_pages())
    shutil.rmtree(site, ignore_errors=True)
    pages = {path.name: (path, path.read_text()) for path in sorted(DOCS.glob("*.md"))}
    pages |= {name: (path, path.read_text()) for path, name in OUTSIDE.items()}
    for name, (source, text) in pages.items():
        write(site, {name: relinked(text, source, site)})
    write(site / "settings", settings.pages())
    write(site / "api", described)
    write(site, {"commands.md": commands.page()})
    shutil.copyfile(DOCS / "mkdocs.yml", site.parent / "mkdocs.yml")


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def relinked(text: str, source: Path, site: Path) -> str:
    """The text with links as the site has them; other files that it names come along in `files/`."""

    def replace(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (source.parent / target).resolve()
        if path.parent == DOCS and path.suffix == ".md":
            return f"[{words}]({path.name}{anchor})"
        if path in OUTSIDE:
            return f"[{words}]({OUTSIDE[path]}{anchor})"
        if not path.is_file():  # a folder, which a site has no page for
            return words
        copy = site / "files" / path.relative_to(ROOT)
        copy = copy.with_name(f"{copy.name}.txt") if copy.suffix in {".md", ""} else copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return f"[{words}]({copy.relative_to(site)})"

    return LINK.sub(replace, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
