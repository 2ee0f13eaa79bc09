from __future__ import annotations

from cortex_site.http.states import TRANSITIONS


def watched(kind: type) -> type:
    """A reader of this kind whose every step is held to the table."""
    slot = kind.state

    class Watched(kind):
        @property
        def state(self):
            return slot.__get__(self)

        @state.setter
        def state(self, new) -> None:
            try:
                old = slot.__get__(self)
            except AttributeError:  # the first one
                pass
            else:
                assert new is old or new in TRANSITIONS[old], f"{old} to {new}"
            slot.__set__(self, new)

    return Watched
