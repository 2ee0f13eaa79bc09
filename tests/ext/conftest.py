from __future__ import annotations

import importlib.util
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import ext

SOURCE = Path(ext.__file__).parent


def load_source(name: str):
    """A module of `ext` as Python, whatever was compiled."""
    spec = importlib.util.spec_from_file_location(f"pure_{name}", SOURCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_compiled(name: str):
    """The compiled module, or None where it was not built for this Python."""
    file = SOURCE / f"{name}{EXTENSION_SUFFIXES[0]}"
    if not file.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"ext.{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(name: str) -> list:
    compiled = None if os.environ.get("CORTEX_PURE_PYTHON") else load_compiled(name)
    modules = [pytest.param(load_source(name), id="python")]
    return [*modules, pytest.param(compiled, id="compiled")] if compiled else modules
