"""The placeholder for a signature that the reasoning's author did not give.

Anthropic's clients drop a thinking block with an empty signature, or turn it into plain text. With this one
they send the block back unchanged, and the gateway removes it.
"""

from __future__ import annotations

UNSIGNED = "dW5zaWduZWQ="  # "unsigned" in base64, the alphabet of Anthropic's own
