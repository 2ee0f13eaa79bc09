"""A request that waits for Redis's answer, and how its key's account stands after that."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ext.prefetch import Grant
from fleet.key_limits import Admission
from fleet.snapshot import KeyView


class Asked(NamedTuple):
    """A request whose grant Redis is asked for. Its answer is None where Redis is away."""

    key: KeyView
    grant: Grant
    answer: asyncio.Future[Admission | None]

    @property
    def is_admitted(self) -> bool:
        """Whether it has been answered, and may run."""
        if not self.answer.done() or self.answer.cancelled():
            return False
        admission = self.answer.result()
        return admission is not None and not admission.refused_by


def note_account(grant: Grant, admission: Admission) -> None:
    """Keep how the account stands after a request was admitted, as its client is told."""
    grant.at, grant.end = admission.at, admission.end
    grant.requests_reset_s, grant.tokens_reset_s = admission.requests_reset_s, admission.tokens_reset_s
