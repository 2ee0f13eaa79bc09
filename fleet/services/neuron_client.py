"""Control calls to one neuron over HTTP; its refusals become `NodeError`."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
from django.conf import settings
from pydantic import TypeAdapter, ValidationError

from cortex_site.base import trace_context
from cortex_site.base.certificate import trusting
from cortex_site.config import current
from fleet.foreign.errors import read_error
from fleet.models import Node
from neuron.wire import Download, Leave, ModelInfo, ModelLog, ModelSpec, NodeLog, Preflight, UnloadRequest

_MODELS = TypeAdapter(list[ModelInfo])
_LOG = TypeAdapter(ModelLog)
_NODE_LOG = TypeAdapter(NodeLog)
_PREFLIGHT = TypeAdapter(Preflight)
_DOWNLOADS = TypeAdapter(list[Download])
PREFLIGHT_TIMEOUT_S = 30.0


class NodeError(Exception):
    """A node did not answer, refused, or was not understood.

    `code` and `message` are its own if it sent any.
    """

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status  # of its answer; None when there was none

    @property
    def is_silence(self) -> bool:
        return self.status is None


def tls() -> ssl.SSLContext:
    """Return what nodes are verified with."""
    return trusting(current().gateway.node_ca)


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


class NeuronClient:
    """A blocking client, for the threads of Celery workers. Every method raises `NodeError`."""

    def __init__(self, node: Node, *, traceparent: str = "") -> None:
        self._name = node.name
        trace = {trace_context.HEADER: traceparent} if traceparent else {}
        self._http = httpx.Client(
            base_url=node.endpoint,
            headers=headers(node.token) | trace,
            timeout=settings.NODE_CALL_TIMEOUT_S,
            verify=tls(),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[ModelInfo]:
        infos: list[ModelInfo] = understood(self._name, _MODELS, self._ask("GET", "/models"))
        return infos

    def model(self, model_id: str) -> ModelInfo | None:
        return next((info for info in self.models() if info.id == model_id), None)

    def log(self, model_id: str, lines: int) -> list[str]:
        """The last lines that the model's own server wrote."""
        path = f"/models/{quote(model_id)}/log?lines={lines}"
        log: ModelLog = understood(self._name, _LOG, self._ask("GET", path))
        return log.lines

    def node_log(self, after: int | None, match: str) -> NodeLog:
        """The last lines of the neuron's processes that contain `match`, or those from `after` on."""
        asked = {"match": match} | ({} if after is None else {"after": str(after)})
        found: NodeLog = understood(self._name, _NODE_LOG, self._ask("GET", f"/logs?{urlencode(asked)}"))
        return found

    def preflight(self, source: str) -> Preflight:
        """What a load of the source would find there; it may ask the hub."""
        answer = self._ask("POST", "/models/preflight", {"source": source}, timeout=PREFLIGHT_TIMEOUT_S)
        found: Preflight = understood(self._name, _PREFLIGHT, answer)
        return found

    def download(self, spec: ModelSpec) -> None:
        """Have the neuron bring the model's files to its disk; returns at once."""
        self._ask("POST", "/models/download", spec.model_dump())

    def cancel_download(self, source: str) -> None:
        """Have the download of the source end, which its list of downloads tells of."""
        self._ask("POST", "/downloads/cancel", {"source": source})

    def downloads(self) -> list[Download]:
        found: list[Download] = understood(self._name, _DOWNLOADS, self._ask("GET", "/downloads"))
        return found

    def load(self, spec: ModelSpec) -> None:
        """Ask for a load. A neuron may answer at once or when the model is loaded."""
        self._ask("POST", "/models/load", spec.model_dump(), timeout=settings.LOAD_TIMEOUT_S)

    def read_ahead(self, spec: ModelSpec) -> None:
        """Have the neuron read the model's files, which it will soon be asked to load; a wish, no more."""
        with suppress(NodeError):
            self._ask("POST", "/models/read-ahead", spec.model_dump())

    def unload(self, model_id: str, leave: Leave) -> None:
        body = UnloadRequest(model_id=model_id, **leave.model_dump())
        timeout = settings.UNLOAD_TIMEOUT_S + leave.grace_s
        self._ask("POST", "/models/unload", body.model_dump(), timeout=timeout)

    def restart(self, device: int, leave: Leave) -> None:
        """Replace the device's worker; returns when its models are loaded again."""
        timeout = settings.LOAD_TIMEOUT_S + leave.grace_s
        self._ask("POST", f"/devices/{device}/restart", leave.model_dump(), timeout=timeout)

    def _ask(
        self, method: str, path: str, body: Any = None, *, timeout: float | None = None
    ) -> httpx.Response:
        limit: Any = httpx.USE_CLIENT_DEFAULT
        if timeout is not None:
            limit = httpx.Timeout(timeout, connect=5.0)
        try:
            response = self._http.request(method, path, json=body, timeout=limit)
        except httpx.HTTPError as error:
            raise unreachable(self._name, error) from error
        if response.is_error:
            raise refusal(self._name, response)
        return response


def unreachable(node: str, error: httpx.HTTPError) -> NodeError:
    return NodeError("node_unreachable", f"{node} does not answer: {error or type(error).__name__}")


def refusal(node: str, response: httpx.Response) -> NodeError:
    """The error that a neuron answered with."""
    error = read_error(response.status_code, response.content)
    return NodeError(error.code, error.message, status=response.status_code)


def understood(node: str, shape: TypeAdapter[Any], response: httpx.Response) -> Any:
    try:
        return shape.validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{node} sent an answer that is not understood: {response.url.path} {where}: {first['msg']}"
        raise NodeError("node_not_understood", message, status=response.status_code) from error
