"""What MCP servers may ask of the session that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import mcp_types


class McpHost(Protocol):
    """The session, as its servers see it."""

    @property
    def can_fill_forms(self) -> bool:
        """Whether the user can be shown a form."""

    @property
    def can_open_urls(self) -> bool:
        """Whether the user can be sent to a page."""

    def notice(self, severity: str, title: str, description: str = "") -> None:
        """Tell the user something that is not part of an answer."""

    def servers_changed(self) -> None:
        """Take note that a server has connected, or is gone, with its tools and prompts."""

    def directories(self) -> list[str]:
        """Return the session's directories."""

    async def elicit(
        self, server: str, params: mcp_types.ElicitRequestParams
    ) -> mcp_types.ElicitResult | mcp_types.ErrorData:
        """Ask the user what the server asks."""

    async def sample(
        self, server: str, params: mcp_types.CreateMessageRequestParams
    ) -> mcp_types.CreateMessageResult | mcp_types.ErrorData:
        """Let the session's model answer the server, if the user permits it."""
