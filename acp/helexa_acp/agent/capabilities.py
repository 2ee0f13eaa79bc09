"""What the agent declares in its answer to `initialize`.

Imports little, because `initialize` must be answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from helexa_acp.config import Config, models_path
from helexa_acp.endpoint import Endpoint
from helexa_acp.shared_file import read_json


def capabilities(config: Config, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the agent's capabilities. Images are one of them unless no model is known to read them."""
    listed = read_json(models_path(env))
    images = any(_may_read_images(endpoint, listed.get(endpoint.name)) for endpoint in config.endpoints)
    return {
        "loadSession": True,
        "promptCapabilities": {"image": images, "audio": False, "embeddedContext": True},
        "mcpCapabilities": {"http": True, "sse": False},
        "sessionCapabilities": {
            "list": {},
            "delete": {},
            "resume": {},
            "close": {},
            "additionalDirectories": {},
            # Unstable; clients that do not know them ignore them.
            "fork": {},
            "archive": {},
            "status": {},
            "title": {},
            "systemPrompt": {"mode": {"override": {}}},
        },
        "auth": {"logout": {}, "status": {}},
    }


def _may_read_images(endpoint: Endpoint, kept: Any) -> bool:
    """Return whether a model of the endpoint may read images, by the configuration and the last list."""
    if endpoint.images is not None:
        return endpoint.images
    models = kept.get("models") if isinstance(kept, dict) else None
    known = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return not known or any(model.get("images") is not False for model in known)
