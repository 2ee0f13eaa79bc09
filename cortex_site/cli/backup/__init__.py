"""`cortex backup` and `cortex restore`: database, secrets and configuration of an installation in one file.

The file is a .tar.gz with `manifest.json` first. `state/` holds what lay in the state directory, `config/`
the settings files, wherever they were; the database is a member of its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

SQLITE = "cortex.sqlite3"
POSTGRES_DUMP = "database.pgdump"
STATE_FILES = ("secret_key", "operator_token", "models.toml", "neuron.toml", "cortex.toml")
STATE_FOLDERS = ("files",)  # of `/v1/files`
CORTEX_TOML, MODELS_TOML = "config/cortex.toml", "config/models.toml"
MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """What a backup holds, and of which cortex."""

    cortex: str
    made_at: str
    database: Literal["sqlite", "postgresql", "none"]
    models_toml: str = ""  # its name beside cortex.toml


class BackupError(Exception):
    """A backup that cannot be made or brought back; the text has the cure."""
