"""Finds the operations of a `NinjaAPI`. Only this file uses what ninja does not document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.operation import Operation

from cortex_site.http.answering import Endpoint

NONE: Mapping[str, Operation] = {}
MAX_MEANT_PARTS = 8  # of a path, from its end
_VERSION = re.compile(r"(/v\d+)/")


class Resolver:
    """Finds operations by path and method in a dictionary. Raises `TypeError` if one is not async."""

    def __init__(self, api: NinjaAPI) -> None:
        self._api = api
        self._static: dict[str, dict[str, Operation]] = {}
        self._dynamic: list[tuple[re.Pattern[str], dict[str, Operation]]] = []
        self._versions: set[str] = set()  # such as `/v1`, before paths
        self.bare: dict[tuple[str, str], Operation] = {}  # by path and method; for `run_bare`
        self.endpoints: dict[tuple[str, str], Endpoint] = {}  # of operations in `bare` that have one
        for path, operations in _operations(api):
            self._add(path, operations)

    def _add(self, path: str, operations: dict[str, Operation]) -> None:
        if version := _VERSION.match(path):
            self._versions.add(version[1])
        if "{" in path:
            self._dynamic.append((_pattern(path), operations))
            return
        self._static.setdefault(path, {}).update(operations)
        for method, operation in operations.items():
            if _is_bare(operation):
                self.bare[path, method] = operation
                if endpoint := getattr(operation.view_func, "endpoint", None):
                    self.endpoints[path, method] = endpoint

    def find(self, path: str) -> tuple[Mapping[str, Operation], dict[str, str]]:
        """Return the operations of a path by method, and the arguments in the path.

        There are none for an unknown path.
        """
        operations = self._static.get(path)
        if operations is not None:
            return operations, {}
        for pattern, candidates in self._dynamic:
            if found := pattern.fullmatch(path):
                return candidates, found.groupdict()
        return NONE, {}

    def meant(self, path: str) -> str | None:
        """Return the known path that a client with a wrong base address meant by an unknown one, or None.

        The base address may lack the API's version, or have something that the client adds itself.
        """
        parts = [part for part in path.split("/") if part][-MAX_MEANT_PARTS:]
        for start in range(len(parts)):
            for base in ("", *sorted(self._versions)):
                candidate = "/".join([base, *parts[start:]])
                if self.find(candidate)[0]:
                    return candidate
        return None

    async def run_bare(self, operation: Operation, request: HttpRequest) -> HttpResponseBase:
        """Return the response of an operation in `bare`: what `operation.run` does, and nothing else."""
        try:
            result = await operation.view_func(request)
            if isinstance(result, HttpResponseBase):
                return result
            blank = self._api.create_temporal_response(request)
            return operation._result_to_response(request, result, blank)  # noqa: SLF001 - see above
        except Exception as error:  # noqa: BLE001 - the API's handlers tell them apart
            return self._api.on_exception(request, error)


def _operations(api: NinjaAPI) -> Iterator[tuple[str, dict[str, Operation]]]:
    for router in api._get_bound_routers():  # noqa: SLF001 - see above
        for path, view in router.path_operations.items():
            full = "/" + "/".join(part.strip("/") for part in (router.prefix, path) if part.strip("/"))
            operations = {method: operation for operation in view.operations for method in operation.methods}
            if not all(operation.is_async for operation in operations.values()):
                raise TypeError(f"{full}: an operation behind Application must be async")
            yield full, operations


def _is_bare(operation: Operation) -> bool:
    """True when ninja has nothing to read or check before the function runs."""
    checks: Any = operation.auth_callbacks or operation.throttle_objects
    return not (operation.models or checks or operation.stream_format)


def _pattern(path: str) -> re.Pattern[str]:
    """`/models/{path:id}/endpoint` as a regular expression; `path:` lets the value hold slashes."""
    parts = re.split(r"\{(path:)?(\w+)\}", path)
    out = [re.escape(parts[0])]
    for kind, name, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out += [f"(?P<{name}>{'.+' if kind else '[^/]+'})", re.escape(literal)]
    return re.compile("".join(out))
