"""neuron's HTTP API: the node's own operations, and inference in OpenAI's dialect.

middleware      id, access and log line of every request; app.py puts all together
one module per endpoint: chat_completions, completions, embeddings, tokenize, node
bodies/         what clients send, decoded and checked
prompts/        what the engine is asked: prompt, constraint, one `Submit` per choice
answers/        what clients get: choices, as one object or as a stream
errors          how every exception is answered
"""

from __future__ import annotations

from neuron.django_settings import configure

configure()
