"""The ways for a user to sign in. Keys are kept in the configuration, never in protocol messages."""

from __future__ import annotations

from typing import Any

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
