"""The error of tools, in a module of its own, which all others of this package may import."""

from __future__ import annotations


class ToolError(Exception):
    """The call cannot run or has failed. The model reads the message."""
