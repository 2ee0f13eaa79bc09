"""`make docs`: the site is built, and warns of nothing."""

from __future__ import annotations

import sys

from tests.release.conftest import ROOT, run, tool


def test_the_site_is_built_without_a_warning(tmp_path):
    zensical = tool("zensical")
    run(sys.executable, "-m", "docs.generate", tmp_path / "site-source", tmp_path / "man", cwd=ROOT)
    configuration = tmp_path / "mkdocs.yml"
    run(zensical, "build", "--clean", "--strict", "--config-file", configuration, cwd=tmp_path)
    made = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {
        name.removesuffix(".html") for name in made
    }
