"""What all streams of server-sent events on this node have in common."""

from __future__ import annotations

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect events otherwise
}
KEEPALIVE = b": keep-alive\n\n"
