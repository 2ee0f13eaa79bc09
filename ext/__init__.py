"""Modules that know bytes and nothing else. Cython compiles them if there is a C compiler at build time.

Each is one Python file that also runs without Cython. `CORTEX_PURE_PYTHON=1` imports the Python file even if
a compiled module lies beside it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


class _SourceFirst(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        source = Path(__file__).with_name(f"{name}.py")
        if package != __name__ or not source.is_file():
            return None
        return spec_from_file_location(fullname, source)


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
