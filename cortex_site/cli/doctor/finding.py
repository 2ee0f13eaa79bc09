"""What a look at something found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

MOST_SKEW_S = 5.0  # leases and heartbeats count in seconds


class Finding(NamedTuple):
    """One fact. With a cure, something is wrong; it is `fatal` if cortex does not start or serve so."""

    subject: str  # "redis", "node beast"
    fact: str
    cure: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        mark = "ok  " if not self.cure else "FAIL" if self.fatal else "warn"
        return f"{mark} {self.subject}: {self.fact}" + (f"; {self.cure}" if self.cure else "")


def clock(subject: str, theirs: datetime) -> Finding:
    """Compare another's clock with ours."""
    skew = (theirs - datetime.now(UTC)).total_seconds()
    if abs(skew) <= MOST_SKEW_S:
        return Finding(subject, "its clock agrees with ours")
    ahead = "ahead of" if skew > 0 else "behind"
    cure = "run an NTP client on both (timedatectl set-ntp true)"
    return Finding(subject, f"its clock is {abs(skew):.0f} s {ahead} ours", cure, fatal=False)
