"""The data plane's way to the control plane: a few verbs.

No request to a loaded model comes this way. When database or broker are away, every verb raises
`ControlPlaneError`, and what was known goes on being served.
"""

from __future__ import annotations

from typing import Protocol

from fleet.snapshot import Configuration


class ControlPlaneError(Exception):
    """Database or broker did not answer."""


class OperationState(Protocol):
    """What the data plane reads of an operation."""

    @property
    def id(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def progress(self) -> float | None: ...
    @property
    def message(self) -> str: ...
    @property
    def error_code(self) -> str: ...
    @property
    def eta_s(self) -> float | None: ...


class ControlPlane(Protocol):
    """The seam: `fleet.control_plane.ServicesControl` in service, a fake in tests."""

    async def configuration(self, known_version: int | None) -> Configuration | None:
        """The configuration, or None while it is still at `known_version`."""

    async def ensure_loaded(self, model: str) -> OperationState:
        """The fleet's one active load of this model, begun if there was none; `ApiError` if impossible."""

    async def operation(self, operation_id: int) -> OperationState: ...

    def close(self) -> None: ...
