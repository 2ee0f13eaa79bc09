"""Modules that know bytes and numbers and nothing else. Cython compiles them where it finds a C compiler.

Each is one Python file that also runs without Cython. `CORTEX_PURE_PYTHON=1` imports the Python file even if
a compiled module lies beside it; so it does with compiled modules of other packages that import this one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

OURS = ("ext", "cortex_site", "fleet")  # packages with compiled modules


class _SourceFirst(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        top, name = fullname.partition(".")[0], fullname.rpartition(".")[2]
        if top not in OURS or not path:
            return None
        source = Path(path[0]) / f"{name}.py"
        return spec_from_file_location(fullname, source) if source.is_file() else None


def compiled(name: str) -> ModuleType | None:
    """Return a module that is C and has no Python twin; None where it was not built."""
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return None
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError:
        return None


if os.environ.get("CORTEX_PURE_PYTHON"):
    sys.meta_path.insert(0, _SourceFirst())
