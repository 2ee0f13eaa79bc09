from __future__ import annotations

from hypothesis import settings

# A slow machine is not a wrong answer.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
