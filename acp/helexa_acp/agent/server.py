"""The agent's side of protocol version 1: `METHODS` maps each method of the protocol to its handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from helexa_acp import VERSION
from helexa_acp.agent.capabilities import capabilities
from helexa_acp.config import ConfigError, load_config
from helexa_acp.rpc.connection import RpcConnection, Writer, current_request
from helexa_acp.rpc.framing import AUTH_REQUIRED, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError
from helexa_acp.v1 import auth
from helexa_acp.v1.client import Client
from helexa_acp.v1.params import as_params, invalid, string

if TYPE_CHECKING:
    from helexa_acp.agent.sessions import Sessions
    from helexa_acp.config import Config

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1

Params = dict[str, Any]
Method = Callable[["Agent", Params], Awaitable[Any]]


class Agent:
    """The agent of one client: its connection, whether its user is signed in, and its sessions."""

    def __init__(self, config: Config, writer: Writer) -> None:
        self.config = config
        self.connection = RpcConnection(writer, self._on_request, self._on_notification)
        self.client: Client | None = None
        self.signed_in = True
        self._sessions: Sessions | None = None

    async def aclose(self) -> None:
        """Cancel the turns, end every child process, and close the connection, which the clean-up needs."""
        if self._sessions is not None:
            await self._sessions.aclose()
        await self.connection.close()

    async def _on_request(self, name: str, params: Any) -> Any:
        method = METHODS.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {name!r}")
        if self.client is None and name != "initialize":
            raise RpcError(INVALID_REQUEST, "initialize must come first")
        return await method(self, as_params(params))

    async def _on_notification(self, name: str, params: Any) -> None:
        if name == "session/cancel" and self._sessions is not None:
            self._sessions.cancel(string(as_params(params), "sessionId"))

    @property
    def sessions(self) -> Sessions:
        """The sessions, created on first use: their imports take longer than `initialize` may take."""
        if self._sessions is None:
            from helexa_acp.agent.sessions import Sessions  # noqa: PLC0415

            self._sessions = Sessions(self.config, self.client or Client(self.connection))
        return self._sessions

    async def initialize(self, params: Params) -> Params:
        version = params.get("protocolVersion")
        if not isinstance(version, int) or isinstance(version, bool):
            raise invalid("protocolVersion must be a whole number")
        self.client = Client(self.connection, params.get("clientCapabilities"))
        if self._sessions is not None:  # a second `initialize` may name other capabilities
            self._sessions.client = self.client
        current_request().after.append(self._warm_up)
        return {
            "protocolVersion": PROTOCOL_VERSION,  # the only one, whichever the client asked for
            "agentCapabilities": capabilities(self.config),
            "agentInfo": {"name": "helexa-acp", "title": "Helexa", "version": VERSION},
            "authMethods": auth.methods(self.client),
        }

    def _warm_up(self) -> None:
        """Import what sessions need while the client has its answer and has not asked for a session yet."""
        asyncio.get_running_loop().call_soon(lambda: self.sessions)

    async def authenticate(self, params: Params) -> Params:
        """Read the configuration again, where the keys are."""
        if string(params, "methodId") not in auth.METHOD_IDS:
            raise invalid(f"methodId must be one of {', '.join(auth.METHOD_IDS)}")
        try:
            self.config = load_config()
        except ConfigError as error:
            raise RpcError(AUTH_REQUIRED, str(error)) from error
        await self.sessions.use(self.config)
        self.signed_in = True
        return {}

    async def logout(self, _: Params) -> Params:
        """Cancel all turns and refuse sessions until `authenticate` reads the configuration again."""
        self.signed_in = False
        self.sessions.cancel_all()
        return {}

    async def auth_status(self, _: Params) -> Params:
        return auth.status(self.config, signed_in=self.signed_in)

    def require_sign_in(self) -> None:
        if not self.signed_in:
            raise RpcError(AUTH_REQUIRED, "signed out: authenticate first")


async def _session_method(agent: Agent, params: Params, name: str) -> Any:
    agent.require_sign_in()
    method: Callable[[Params], Awaitable[Any]] = getattr(agent.sessions, name)
    return await method(params)


def _on_sessions(name: str) -> Method:
    return lambda agent, params: _session_method(agent, params, name)


METHODS: dict[str, Method] = {
    "initialize": Agent.initialize,
    "authenticate": Agent.authenticate,
    "logout": Agent.logout,
    "session/new": _on_sessions("new"),
    "session/load": _on_sessions("load"),
    "session/resume": _on_sessions("resume"),
    "session/list": _on_sessions("list_page"),
    "session/close": _on_sessions("close"),
    "session/delete": _on_sessions("delete"),
    "session/prompt": _on_sessions("prompt"),
    "session/set_mode": _on_sessions("set_mode"),
    "session/set_config_option": _on_sessions("set_config_option"),
    # Unstable, each declared as a capability.
    "auth/status": Agent.auth_status,
    "session/fork": _on_sessions("fork"),
    "session/archive": _on_sessions("archive"),
    "session/unarchive": _on_sessions("unarchive"),
    "session/status": _on_sessions("status"),
    "session/set_title": _on_sessions("set_title"),
    "session/set_model": _on_sessions("set_model"),  # gone from the schema, still sent by older clients
}
