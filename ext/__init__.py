"""Modules that know bytes and nothing else. Cython compiles them if there is a C compiler at build time.

Each is one Python file that also runs without Cython. `CORTEX_PURE_PYTHON=1` imports the Python file even if
a compiled module lies beside it.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path


class _SourceFirst(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __name__:
            return None
        file = Path(__file__).with_name(f"{name}.py")
        return spec_from_file_location(fullname, file) if file.exists() else None  # but for a package


if os.environ.get("CORTEX_PURE_PYTHON"):
    sys.meta_path.insert(0, _SourceFirst())
