"""Every setting is written down where operators look: in an example configuration or in docs/."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from cortex_site.config import cortex_toml
from neuron import config as neuron_toml

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.toml")]


def test_every_setting_is_in_an_example_or_in_the_docs():
    words = {word for path in TEXTS for word in re.findall(r"\w+", path.read_text())}
    missing = [
        f"{section.__name__}.{name}"
        for module in (cortex_toml, neuron_toml)
        for section in vars(module).values()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for name in section.model_fields
        if name not in words
    ]
    assert not missing
