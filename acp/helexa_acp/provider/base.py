"""The seam between the agent loop and an endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.rate_limits import RateLimit
from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ModelDetails


class Provider(ABC):
    """An endpoint that can be asked for completions. To construct one costs no network access."""

    name: str
    rate_limits: tuple[RateLimit, ...] = ()  # as the last answer told them

    @abstractmethod
    async def list_models(self) -> list[ModelDetails]:
        """Return the models that the endpoint lists. Raises ProviderError."""

    @abstractmethod
    def complete(
        self, request: CompletionRequest, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Yield the events of one completion as they arrive.

        Once `cancel` is set, the generator ends without `Finish` and yields nothing more.
        Raises ProviderError; if the stream breaks, after the events that arrived.
        """

    async def count_tokens(self, request: CompletionRequest) -> int | None:
        """Return the length of the prompt in tokens, or None if the endpoint cannot tell. Does not raise."""
        del request
        return None

    def takes_images(self, model: str) -> bool:
        """Return False if it was learned that the server refuses images for this model."""
        del model
        return True

    async def aclose(self) -> None:  # noqa: B027 - an optional hook
        """Close the connections."""
