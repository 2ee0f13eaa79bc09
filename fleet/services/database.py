"""Database connections outside Django's request cycle.

The data plane calls verbs from threads that live as long as its process. `connected` gives each call a
connection that works, even after the database was restarted, and closes it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import close_old_connections

P = ParamSpec("P")
R = TypeVar("R")


def connected(verb: Callable[P, R]) -> Callable[P, R]:
    """The verb with a database connection of its own for each call."""

    @wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        close_old_connections()
        try:
            return verb(*args, **kwargs)
        finally:
            close_old_connections()

    return call
