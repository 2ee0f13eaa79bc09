"""The endpoints of an agent: their providers and the models that are known of each.

Neither the model picker nor `session/new` waits for an endpoint. Models are known from the configuration,
from the last list kept on disk, and from a refresh in the background, which calls `on_change`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from helexa_acp.config import Config
from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.base import Provider
from helexa_acp.provider.errors import ProviderError
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.provider.types import ModelDetails
from helexa_acp.shared_file import read_json, update_json

log = logging.getLogger(__name__)

REFRESH_AFTER_S = 60.0

MakeProvider = Callable[[Endpoint, QuirkBook], Provider]


def make_provider(endpoint: Endpoint, book: QuirkBook) -> Provider:
    """Return the provider for the endpoint's wire."""
    if endpoint.wire_api == "scripted":
        from helexa_acp.provider.scripted import ScriptedProvider  # noqa: PLC0415 - few endpoints need it

        return ScriptedProvider(endpoint)
    from helexa_acp.provider.http import http_provider  # noqa: PLC0415 - `initialize` does not wait for it

    return http_provider(endpoint, book)


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """An endpoint and the name of one of its models, which the endpoint need not have listed."""

    endpoint: Endpoint
    model: str

    @property
    def tag(self) -> str:
        return f"{self.endpoint.name}:{self.model}"


class UnknownModelError(Exception):
    """The selector names no model."""


class Endpoints:
    """Owns the providers and the tasks that refresh the lists of models; `cache` is where lists are kept."""

    def __init__(
        self, config: Config, book: QuirkBook, cache: Path | None, make: MakeProvider = make_provider
    ) -> None:
        self.config = config
        self.on_change: Callable[[], None] = lambda: None
        self.refresh_errors: dict[str, str] = {}
        self.listed: set[str] = set()  # endpoints that have listed their models since the start
        self._book = book
        self._make = make
        self._cache = cache
        self._providers: dict[str, Provider] = {}
        self._models: dict[str, list[ModelDetails]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refreshed_at: dict[str, float] = {}
        self._read_cache()

    def provider(self, endpoint: Endpoint) -> Provider:
        if endpoint.name not in self._providers:
            self._providers[endpoint.name] = self._make(endpoint, self._book)
        return self._providers[endpoint.name]

    def models(self, endpoint: Endpoint) -> list[ModelDetails]:
        """Return the models known now, headed by the default model if the endpoint does not list it."""
        known = self._models.get(endpoint.name, [])
        default = endpoint.default_model
        if default and all(model.id != default for model in known):
            return [ModelDetails(default), *known]
        return known

    def info(self, choice: ModelChoice) -> ModelDetails:
        """Return what is known of a model. The configuration overrides the server."""
        known = next(
            (m for m in self.models(choice.endpoint) if m.id == choice.model), ModelDetails(choice.model)
        )
        endpoint = choice.endpoint
        return replace(
            known,
            context_window=endpoint.context_window or known.context_window,
            efforts=endpoint.reasoning_efforts or known.efforts,
            images=endpoint.images if endpoint.images is not None else known.images,
        )

    def resolve(self, selector: str) -> ModelChoice:
        """Return what the selector names. Raises UnknownModelError."""
        endpoint, model = self.config.select(selector.strip())
        if not model:
            raise UnknownModelError("the model's name is empty")
        return ModelChoice(endpoint, model)

    def default(self) -> ModelChoice | None:
        """Return the default model, of the default endpoint if possible; None while no model is known.

        An endpoint without a configured default offers its first warm model, else its first.
        """
        preferred = self.config.endpoint(self.config.default_endpoint)
        ordered = [e for e in (preferred, *self.config.endpoints) if e is not None]
        for endpoint in ordered:
            models = self.models(endpoint)
            warm = next((m for m in models if m.state == "warm"), None)
            if endpoint.default_model or models:
                return ModelChoice(endpoint, endpoint.default_model or (warm or models[0]).id)
        return None

    def refresh(self, changed: Endpoint | None = None) -> None:
        """Start to list the models of all endpoints that were not asked for REFRESH_AFTER_S.

        `changed` is an endpoint to ask in any case.
        """
        for endpoint in self.config.endpoints:
            asked = self._refreshed_at.get(endpoint.name, -math.inf)
            if endpoint is changed:
                asked = -math.inf
            if endpoint.name not in self._tasks and time.monotonic() - asked >= REFRESH_AFTER_S:
                task = asyncio.create_task(self._refresh(endpoint))
                self._tasks[endpoint.name] = task

    async def settle(self) -> None:
        """Wait for the refreshes in progress."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def aclose(self) -> None:
        """Cancel the refreshes and close the providers."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(
            *(provider.aclose() for provider in self._providers.values()), return_exceptions=True
        )

    async def _refresh(self, endpoint: Endpoint) -> None:
        self._refreshed_at[endpoint.name] = time.monotonic()
        try:
            await self._list(endpoint)
        finally:
            self._tasks.pop(endpoint.name, None)

    async def _list(self, endpoint: Endpoint) -> None:
        try:
            models = await self.provider(endpoint).list_models()
        except ProviderError as error:
            log.warning("cannot list the models of %s: %s", endpoint.name, error)
            first = endpoint.name not in self.refresh_errors
            self.refresh_errors[endpoint.name] = str(error)
            if first:
                self.on_change()
            return
        self.listed.add(endpoint.name)
        back = self.refresh_errors.pop(endpoint.name, None) is not None
        if models != self._models.get(endpoint.name):
            self._models[endpoint.name] = models
            self._write_cache(endpoint, models)
            self.on_change()
        elif back:
            self.on_change()

    def _read_cache(self) -> None:
        kept = read_json(self._cache) if self._cache else {}
        for endpoint in self.config.endpoints:
            entry = kept.get(endpoint.name)
            if isinstance(entry, dict) and entry.get("base_url") == endpoint.base_url:
                self._models[endpoint.name] = [m for m in map(_kept_model, entry.get("models", [])) if m]

    def _write_cache(self, endpoint: Endpoint, models: list[ModelDetails]) -> None:
        if self._cache is None:
            return
        entry = {"base_url": endpoint.base_url, "models": [asdict(model) for model in models]}
        try:
            update_json(self._cache, lambda kept: {**kept, endpoint.name: entry})
        except OSError as error:
            log.warning("cannot keep the list of models in %s: %s", self._cache, error)


def _kept_model(value: Any) -> ModelDetails | None:
    """Return the model of a cache entry, without its state, which may have changed since."""
    try:
        return replace(ModelDetails(**value), efforts=tuple(value.get("efforts") or ()), state=None)
    except (TypeError, AttributeError):
        return None
