"""Ollama's API as a dialect of clients."""

from __future__ import annotations

from fleet.translation.ollama.call import (
    Named,
    OllamaCall,
    chat_to_chat,
    embed_to_embeddings,
    generate_to_chat,
    is_load,
    named,
    prompt_to_embeddings,
)
from fleet.translation.ollama.embeddings import embed_answer, embeddings_answer
from fleet.translation.ollama.lines import LinesWriter, chat_fields, error_body, generate_fields

__all__ = [
    "LinesWriter",
    "Named",
    "OllamaCall",
    "chat_fields",
    "chat_to_chat",
    "embed_answer",
    "embed_to_embeddings",
    "embeddings_answer",
    "error_body",
    "generate_fields",
    "generate_to_chat",
    "is_load",
    "named",
    "prompt_to_embeddings",
]
