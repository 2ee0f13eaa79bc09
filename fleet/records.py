"""How a request ended, as its record says."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["ok", "error", "cancelled", "rejected"]
# ok: answered in full. error: failed by the fleet. cancelled: the client left. rejected: a 4xx of ours.
