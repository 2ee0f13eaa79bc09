"""The seam: what the agent loop knows of an endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ModelDetails


class Provider(ABC):
    """An endpoint that completes. Constructing one does no network and imports nothing heavy."""

    name: str

    @abstractmethod
    async def list_models(self) -> list[ModelDetails]:
        """Raises ProviderError."""

    @abstractmethod
    def complete(
        self, request: CompletionRequest, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Stream one completion.

        Ends silently, without Finish, once `cancel` is set; nothing is yielded after that.
        Raises ProviderError; a broken stream raises after the events that arrived.
        """

    async def count_tokens(self, request: CompletionRequest) -> int | None:
        """The prompt's exact length where the endpoint can tell, else None. Never raises ProviderError."""
        del request
        return None

    async def aclose(self) -> None:  # noqa: B027 - an optional hook
        """Give back connections."""
