"""A provider's error as the client gets it."""

from __future__ import annotations

from helexa_acp.provider.errors import AuthFailedError, ProviderError
from helexa_acp.rpc.framing import AUTH_REQUIRED, INTERNAL_ERROR, RpcError


def as_rpc_error(error: ProviderError) -> RpcError:
    code = AUTH_REQUIRED if isinstance(error, AuthFailedError) else INTERNAL_ERROR
    return RpcError(code, str(error), error.data)
