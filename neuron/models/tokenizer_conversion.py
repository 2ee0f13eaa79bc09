"""Prints a model's tokenizer as `tokenizer.json` has it: `python -m neuron.models.tokenizer_conversion DIR`.

For directories without that file: transformers makes a fast tokenizer of tekken.json, of tiktoken's and
SentencePiece's files, of a vocabulary with merges. `neuron.text.tokenizer_file` runs this in a process of its
own, for the daemon imports no transformers.
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import AutoTokenizer


def converted(directory: str) -> str:
    """The tokenizer of the directory, as text. Raises whatever transformers raises."""
    tokenizer: Any = AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False, mistral_format=False
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"transformers has no fast tokenizer for {type(tokenizer).__name__}")
    return str(backend.to_str())


if __name__ == "__main__":
    sys.stdout.write(converted(sys.argv[1]))
