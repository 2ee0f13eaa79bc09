"""Which drafts of a step were right: the rows of their logits in order, and the tokens sampled there."""

from __future__ import annotations

from collections.abc import Sequence


def kept_rows(tokens: Sequence[int], drafts: Sequence[int | None]) -> list[bool]:
    """Return of each row whether its token counts: whether the drafts before it are what was sampled.

    `drafts` holds the guess in place of each token, and None for the row after a request's last guess.
    """
    kept = []
    is_right = True
    for token, draft in zip(tokens, drafts, strict=True):
        kept.append(is_right)
        is_right = draft is None or (is_right and token == draft)
    return kept
