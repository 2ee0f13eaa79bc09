"""What a chat template takes, found by rendering probes through it, and how messages are made fit for it.

A template is a stranger's program. What it does with a second system message, with two calls at once or with
a thought is not looked up by the model's name and not searched for in its source: it is tried once, when the
model is loaded, and kept as `TemplateTraits`.
"""

from __future__ import annotations
