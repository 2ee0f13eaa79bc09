"""What a tool raises when a call cannot go on."""

from __future__ import annotations


class ToolError(Exception):
    """The call cannot run or has failed. The model reads the message."""
