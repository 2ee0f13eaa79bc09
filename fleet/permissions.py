"""Who asks, and whether they may steer the fleet: for the operator API and the admin."""

from __future__ import annotations

from typing import Any

from neuron.wire import ApiError

TOKEN_HOLDER = "operator"  # noqa: S105 - a name


def asker(request: Any) -> str:
    """The name of who asks, as operations and the audit log keep it: a user's, or `operator`."""
    return str(_identity(request))


def may_operate(request: Any) -> bool:
    """Whether operations may be started; other staff may look only."""
    identity = _identity(request)
    return identity == TOKEN_HOLDER or bool(identity.has_perm("fleet.add_operation"))


def operator(request: Any) -> str:
    """The name of who asks. Raises `ApiError` 403 for staff who may look only."""
    if not may_operate(request):
        raise ApiError(403, "forbidden", f"{asker(request)} may not start operations.")
    return asker(request)


def _identity(request: Any) -> Any:
    """What ninja made of the credentials, or Django of the session."""
    return getattr(request, "auth", None) or request.user
