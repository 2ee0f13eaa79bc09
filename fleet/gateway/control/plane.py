"""What the data plane asks of the control plane: a few verbs.

No request to a loaded model comes this way. When the database or the broker is away every verb raises
`ControlPlaneError`, and the data plane serves on by what it knew.
"""

from __future__ import annotations

from typing import Protocol

from fleet.operations import OperationView
from fleet.snapshot import Configuration


class ControlPlaneError(Exception):
    """The database or the broker did not answer."""


class ControlPlane(Protocol):
    """The seam: `fleet.control_plane.ServicesControl` in service, a fake in tests."""

    async def configuration(self, known_version: int | None) -> Configuration | None:
        """The configuration, or None while it is still at `known_version`."""

    async def ensure_loaded(self, model: str) -> OperationView:
        """The fleet's one active load of a model, started if there was none. Raises `ApiError`."""

    async def operation(self, operation_id: int) -> OperationView: ...

    def close(self) -> None: ...
