"""The ways for a user to sign in. Keys are kept in the configuration, never in protocol messages."""

from __future__ import annotations

from typing import Any

from helexa_acp.config import Config
from helexa_acp.v1.client import Client

METHOD_IDS = ("config", "setup")


def methods(client: Client) -> list[dict[str, Any]]:
    """Return the methods that this client can offer to its user."""
    offered: list[dict[str, Any]] = [
        {
            "id": "config",
            "name": "Configuration file",
            "description": "Write endpoints and keys into helexa-acp/config.toml, which is then read again",
        }
    ]
    if client.has_terminal_auth:
        offered.append(
            {
                "id": "setup",
                "name": "Set up an endpoint",
                "description": "Asks for an endpoint and its key in a terminal",
                "type": "terminal",
                "args": ["setup"],
            }
        )
    return offered


def status(config: Config, *, signed_in: bool) -> dict[str, Any]:
    """Return whether the user is signed in, and the endpoints that have a key."""
    with_key = [endpoint.name for endpoint in config.endpoints if endpoint.api_key]
    state = "unauthenticated" if not signed_in else "authenticated" if with_key else "not_required"
    accounts = [{"label": name, "active": name == config.default_endpoint} for name in with_key]
    return {"state": state, "accounts": accounts} if accounts and signed_in else {"state": state}
