"""cortex's configuration: `cortex.toml`, and `models.toml` for placement profiles.

Processes find their file through `CORTEX_CONFIG`; `CORTEX_SECTION__KEY` overrides the same key in the file.
Nothing here imports Django, so that a mistake shows before anything starts.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from cortex_site.base.settings_file import load
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.config.models_toml import Catalogue


def load_config(path: Path | None) -> CortexConfig:
    """The configuration in `path`; the files that it names become absolute, relative to that file."""
    config = load(CortexConfig, path)
    if path is None:
        return config
    gateway = _beside(path, config.gateway, "tls_cert", "tls_key", "node_ca")
    return _beside(path, config, "models_config").model_copy(update={"gateway": gateway})


Model = TypeVar("Model", bound=BaseModel)


def _beside(path: Path, settings: Model, *keys: str) -> Model:
    given = {key: getattr(settings, key) for key in keys}
    return settings.model_copy(update={key: path.parent / file for key, file in given.items() if file})


def load_catalogue(config: CortexConfig) -> Catalogue:
    """The models in the file that `config` names; none without one."""
    return load(Catalogue, config.models_config)


@lru_cache(maxsize=1)
def current() -> CortexConfig:
    """The configuration of this process, from `CORTEX_CONFIG` and the environment."""
    path = os.environ.get("CORTEX_CONFIG")
    return load_config(Path(path) if path else None)
