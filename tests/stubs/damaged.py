"""A file of a model directory, damaged: cut short, with other bytes or types, or nested too deeply."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.stubs.mutations import mutated_bytes, mutated_json, nested

WORDS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-",
    b"9" * 30,
    b"null",
    b"\xff",
    b"\0",
    b"{{",
    b"{%",
    b"%}",
]

VALUES = [
    "x" * 5000,
    "\0",
    "../x",
    -7,
    1 << 40,
    "Sequence",
    "ByteLevel",
    "WordLevel",
    "llama",
    "float16",
    "F64",
]


def damage(dice: Random, path: Path) -> None:
    """Change the file at `path` for one that is nearly the same."""
    before = path.read_bytes()
    kind = dice.random()
    if kind < 0.1:
        after = before[: dice.randint(0, len(before))]
    elif kind < 0.15:
        after = nested().encode()
    elif kind < 0.4:
        after = mutated_bytes(dice, before, WORDS)
    else:
        after = _other_types(dice, path.suffix, before)
    path.write_bytes(after)


def _other_types(dice: Random, suffix: str, before: bytes) -> bytes:
    """JSON with some values changed; of safetensors the header, whose length is right."""
    if suffix == ".json":
        return json.dumps(mutated_json(dice, json.loads(before), VALUES)).encode()
    if suffix != ".safetensors":
        return mutated_bytes(dice, before, WORDS)
    end = 8 + int.from_bytes(before[:8], "little")
    header = (
        nested()
        if dice.random() < 0.05
        else json.dumps(mutated_json(dice, json.loads(before[8:end]), VALUES))
    )
    return len(header).to_bytes(8, "little") + header.encode() + before[end:]
