"""A model in one GGUF file or in several: `NAME-00001-of-00003.gguf` and the files after it.

Names count parts from 1, the key `split.no` counts them from 0. All that is said of the model stands in the
first part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import ModelLoadError, model_broken
from neuron.models.gguf.container import Container, StoredTensor, read_container

SUFFIX = ".gguf"
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
NUMBER, COUNT, NUM_TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """A whole model: the keys of its first file, the tensors of all."""

    path: Path  # of the first file
    values: dict[str, Any]
    tensors: dict[str, StoredTensor]


def is_gguf(path: Path) -> bool:
    """Return whether a path is called as a GGUF file."""
    return path.suffix.lower() == SUFFIX


def is_later_part(name: str) -> bool:
    """Return whether a file's name is that of a part after the first."""
    found = _PART.fullmatch(name)
    return found is not None and int(found["number"]) != 1


def part_names(name: str) -> list[str]:
    """Return the names of all parts of the model of which one has this name."""
    found = _PART.fullmatch(name)
    if found is None:
        return [name]
    count = int(found["count"])
    return [f"{found['stem']}-{number:05}-of-{count:05}{SUFFIX}" for number in range(1, count + 1)]


def read_files(path: Path) -> GgufFiles:
    """Return the model whose first file is at `path`. Raises ModelLoadError naming the file and the cause."""
    if is_later_part(path.name):
        cause = f"is a later part of a model; name the first, {part_names(path.name)[0]}"
        raise ModelLoadError("model_unsupported", f"{path}: {cause}")
    first = read_container(path)
    count = _count(first)
    parts = [first, *map(read_container, _others(first, count))]
    tensors: dict[str, StoredTensor] = {}
    for number, part in enumerate(parts):
        if count > 1:
            _check_part(part, number, count)
        if twice := sorted(tensors.keys() & part.tensors.keys()):
            raise model_broken(part.path, f"holds {twice[0]}, which {tensors[twice[0]].file.name} holds, too")
        tensors |= part.tensors
    stated = first.values.get(NUM_TENSORS)
    if count > 1 and stated is not None and stated != len(tensors):
        raise model_broken(path, f"{NUM_TENSORS} is {stated!r}, but the {count} files hold {len(tensors)}")
    return GgufFiles(path, first.values, tensors)


def _count(first: Container) -> int:
    count = first.values.get(COUNT, 1)
    if not isinstance(count, int) or count < 0:
        raise model_broken(first.path, f"{COUNT} is {count!r}")
    return max(1, int(count))


def _others(first: Container, count: int) -> list[Path]:
    """Return the paths of the parts after the first."""
    path = first.path
    if count == 1:
        return []
    if (found := _PART.fullmatch(path.name)) is None:
        cause = f"is one of {count} parts of a model, but not called NAME-00001-of-{count:05}{SUFFIX}"
        raise model_broken(path, f"{cause}; give the parts their names again")
    if int(found["count"]) != count:
        raise model_broken(path, f"{COUNT} is {count}, but its name says {int(found['count'])}")
    others = [path.with_name(name) for name in part_names(path.name)[1:]]
    for number, other in enumerate(others, 2):
        if not other.is_file():
            raise model_broken(other, f"is missing: part {number} of {count}")
    return others


def _check_part(part: Container, number: int, count: int) -> None:
    for key, wanted in ((NUMBER, number), (COUNT, count)):
        if part.values.get(key) != wanted:
            raise model_broken(part.path, f"{key} is {part.values.get(key)!r}, but must be {wanted}")
