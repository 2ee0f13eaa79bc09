"""How a model's hidden states become one vector, as its directory says. No torch.

sentence-transformers writes `modules.json` (transformer, pooling, perhaps normalization) and a folder with a
`config.json` for the pooling; `sentence_bert_config.json` bounds the input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron.models.checkpoint import ModelLoadError, model_broken

MODULES = "modules.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
PoolingMode = Literal["cls", "mean", "last"]

_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, PoolingMode] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


@dataclass(frozen=True, slots=True)
class Pooling:
    mode: PoolingMode
    normalize: bool
    max_tokens: int | None  # of an input; the model's own bound when None


def read_pooling(path: Path) -> Pooling | None:
    """None when the model makes no embeddings. Raises LoadError naming file and cause."""
    if not (path / MODULES).is_file():
        return None
    modules = _read(path / MODULES)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise model_broken(path / MODULES, "is not a list of modules")
    mode, normalize = None, False
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(path / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer" or module.get("path"):
            cause = f"a module {kind} in {module.get('path') or 'the directory itself'} is not supported"
            raise ModelLoadError("model_unsupported", f"{path / MODULES}: {cause}")
    if mode is None:
        raise ModelLoadError("model_unsupported", f"{path / MODULES}: there is no pooling among its modules")
    return Pooling(mode, normalize, _max_tokens(path))


def _mode(file: Path) -> PoolingMode:
    config = _read(file)
    named = config.get("pooling_mode") if isinstance(config, dict) else None
    chosen = [_NAMES[named]] if isinstance(named, str) and named in _NAMES else []
    chosen += [mode for key, mode in _MODES.items() if isinstance(config, dict) and config.get(key) is True]
    if len(chosen) != 1:
        wanted = ", ".join(_MODES)
        raise ModelLoadError("model_unsupported", f"{file}: exactly one of {wanted} must be true")
    return chosen[0]


def _max_tokens(path: Path) -> int | None:
    config = _read(path / SENTENCE_CONFIG) if (path / SENTENCE_CONFIG).is_file() else {}
    bound = config.get("max_seq_length") if isinstance(config, dict) else None
    return bound if isinstance(bound, int) and bound > 0 else None


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise model_broken(file, f"is not readable as JSON: {error}") from error
