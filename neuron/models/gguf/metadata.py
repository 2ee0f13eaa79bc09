"""The keys of a model's GGUF files, each asked for with the type that it must have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import ModelLoadError, model_broken
from neuron.models.gguf.split_files import GgufFiles

ARCHITECTURE, KIND = "general.architecture", "general.type"
_MAX_WHOLE = 1 << 31


class GgufKeys:
    """The keys by name. One that begins with a dot is the architecture's own: `.block_count`.

    Whatever asks for a key that is missing and has no default, or of another type, raises ModelLoadError
    naming file and key.
    """

    def __init__(self, files: GgufFiles) -> None:
        self.path: Path = files.path
        self._values: Mapping[str, Any] = files.values
        self._check_kind()
        self.architecture = self.text(ARCHITECTURE)

    def _check_kind(self) -> None:
        if (kind := self._values.get(KIND, "model")) != "model":
            cause = (
                f"{KIND} is {kind!r}: it is a part for a model, such as an adapter; name the model's own file"
            )
            raise ModelLoadError("model_unsupported", f"{self.path}: {cause}")

    def key(self, name: str) -> str:
        """Return a key's full name."""
        return self.architecture + name if name.startswith(".") else name

    def has(self, name: str) -> bool:
        return self.key(name) in self._values

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._get(name, default)
        return value if isinstance(value, bool) else self._refuse(name, value, "true or false")

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number, to the seven digits that a float of 32 bits has."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            self._refuse(name, value, "a number")
        return float(f"{value:.7g}")

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number, also one that is the same in all layers."""
        value = self._get(name, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if isinstance(value, list):
            raise self.differing(name)
        return self._whole(name, value, least)

    def wholes(self, name: str, count: int) -> list[int]:
        """Return a whole number for each of `count` layers, which is no more than there are tensors."""
        value = self._get(name, None)
        if not isinstance(value, list):
            return [self._whole(name, value, 0)] * count
        values = value
        if len(values) != count:
            self._refuse(name, f"{len(values)} values", f"a number, or one for each of {count} layers")
        return [self._whole(name, each, 0) for each in values]

    def pattern(self, name: str) -> int | list[bool]:
        """Return every which layer is another, or for each layer whether it is not."""
        value = self._get(name, None)
        if not isinstance(value, list):
            return self._whole(name, value, 0)
        if not all(isinstance(each, int) for each in value):
            self._refuse(name, value, "a number, or a list of true and false")
        return [bool(each) for each in value]

    def texts(self, name: str) -> list[str]:
        return self._list(name, str, "texts")

    def numbers(self, name: str) -> list[float]:
        return [float(value) for value in self._list(name, (int, float), "numbers")]

    def token_id(self, name: str) -> int | None:
        """Return a token's number; None where there is none."""
        value = self._get(name, -1)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(name, value, "a token's number")
        return None if value < 0 or value == (1 << 32) - 1 else int(value)

    def names(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`."""
        return [name for name in self._values if name.startswith(prefix)]

    def broken(self, name: str, cause: str) -> ModelLoadError:
        return model_broken(self.path, f"{self.key(name)} {cause}")

    def differing(self, name: str) -> ModelLoadError:
        """Return the error for a value that must be the same in all layers."""
        cause = f"{self.key(name)} differs from layer to layer, as in no {self.architecture} that runs here"
        return ModelLoadError("model_unsupported", f"{self.path}: {cause}")

    def _whole(self, name: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MAX_WHOLE:
            self._refuse(name, value, f"a whole number from {least} on")
        return int(value)

    def _list(self, name: str, kind: Any, what: str) -> list[Any]:
        value = self._get(name, None)
        if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
            self._refuse(name, value, f"a list of {what}")
        return list(value)

    def _get(self, name: str, default: Any) -> Any:
        key = self.key(name)
        if key not in self._values and default is None:
            raise model_broken(self.path, f"lacks the key {key}")
        return self._values.get(key, default)

    def _refuse(self, name: str, value: Any, wanted: str) -> Any:
        shown = repr(value)
        shown = shown if len(shown) < 80 else f"{shown[:80]}…"
        raise self.broken(name, f"is {shown}, but must be {wanted}")
