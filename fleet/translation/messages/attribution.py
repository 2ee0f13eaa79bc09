"""Claude Code's attribution: a note to a billing system, sent as the first block of the system prompt.

It differs between conversations, so a prompt that begins with it shares no prefix with any other.
"""

from __future__ import annotations

import re

from fleet.translation.messages.wire import Text

_ATTRIBUTION = re.compile(r"x-anthropic-billing-header:[^\r\n]*\s*")


def is_attributed(system: str | list[Text] | None) -> bool:
    """Whether the first block of a system prompt is the attribution line and nothing else."""
    match system:
        case [Text(text=text), *_]:
            return _ATTRIBUTION.fullmatch(text) is not None
        case _:
            return False
