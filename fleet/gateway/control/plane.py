"""What the data plane asks of the control plane: a few verbs.

No request to a loaded model comes this way. When the database or the broker is away every verb raises
`ControlPlaneError`, and the data plane serves on by what it knew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fleet.operations import OperationView
from fleet.snapshot import Configuration


class ControlPlaneError(Exception):
    """The database or the broker did not answer."""


Json = dict[str, Any]


class BatchControl(Protocol):
    """Files and batches of clients, each an owner's alone. All raise `ApiError`, and 404 for another's."""

    async def create_file(self, owner: str, content_type: str, body: bytes) -> Json: ...

    async def files(
        self, owner: str, purpose: str | None, after: str | None, limit: int, order: str
    ) -> Json: ...

    async def file(self, owner: str, ident: str) -> Json: ...

    async def file_content(self, owner: str, ident: str) -> Path: ...

    async def delete_file(self, owner: str, ident: str) -> Json: ...

    async def create_batch(
        self, owner: str, *, input_file: str, endpoint: str, window: str, metadata: dict[str, str]
    ) -> Json: ...

    async def batches(self, owner: str, after: str | None, limit: int) -> Json: ...

    async def batch(self, owner: str, ident: str) -> Json: ...

    async def cancel_batch(self, owner: str, ident: str) -> Json: ...


class ControlPlane(Protocol):
    """The seam: `fleet.control_plane.ServicesControl` in service, a fake in tests."""

    @property
    def batches(self) -> BatchControl: ...

    async def configuration(self, known_version: int | None) -> Configuration | None:
        """The configuration, or None while it is still at `known_version`."""

    async def ensure_loaded(self, model: str) -> OperationView:
        """The fleet's one active load of a model, started if there was none. Raises `ApiError`."""

    async def operation(self, operation_id: int) -> OperationView: ...

    def close(self) -> None: ...
