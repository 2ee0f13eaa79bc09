"""Commands for people. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def main_of(name: str) -> Callable[[list[str]], int]:
    module = import_module(f"helexa_acp.cli.{name}")
    main: Callable[[list[str]], int] = module.main
    return main
