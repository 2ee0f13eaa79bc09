"""What stands for a signature where the reasoning's author gave none.

Anthropic's clients drop, or turn into plain text, a thinking block whose signature is empty. With this
one they hand it back as it was; the gateway recognises it and takes it off.
"""

from __future__ import annotations

UNSIGNED = "dW5zaWduZWQ="  # "unsigned" in base64, the alphabet of Anthropic's own
