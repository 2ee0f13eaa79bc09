"""What uvicorn and ninja do not document, and our HTTP is built on, looks as it did when it was read."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from ninja import NinjaAPI
from ninja.operation import AsyncOperation, Operation
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

READ_AT = {"django-ninja": "1.7", "uvicorn": "0.54"}
RESOLVER, PROTOCOL = "cortex_site/http/resolver.py", "cortex_site/http/protocol.py"

# Library, callable, its parameters, the one file that uses it.
CALLABLES = [
    ("django-ninja", NinjaAPI._get_bound_routers, ["self"], RESOLVER),
    ("django-ninja", NinjaAPI.create_temporal_response, ["self", "request"], RESOLVER),
    ("django-ninja", NinjaAPI.on_exception, ["self", "request", "exc"], RESOLVER),
    (
        "django-ninja",
        Operation._result_to_response,
        ["self", "request", "result", "temporal_response"],
        RESOLVER,
    ),
    ("uvicorn", FlowControl.__init__, ["self", "transport"], PROTOCOL),
    ("uvicorn", FlowControl.drain, ["self"], PROTOCOL),
    ("uvicorn", FlowControl.pause_reading, ["self"], PROTOCOL),
    ("uvicorn", FlowControl.resume_reading, ["self"], PROTOCOL),
    ("uvicorn", FlowControl.pause_writing, ["self"], PROTOCOL),
    ("uvicorn", FlowControl.resume_writing, ["self"], PROTOCOL),
    ("uvicorn", get_remote_addr, ["transport"], PROTOCOL),
]


async def _view(request): ...


def _operation() -> Operation:
    return AsyncOperation("/x", ["GET"], _view)


# Library, maker of an object, the attributes that are read, the file that reads them.
ATTRIBUTES = [
    (
        "django-ninja",
        _operation,
        ["auth_callbacks", "is_async", "methods", "models", "stream_format", "throttle_objects", "view_func"],
        RESOLVER,
    ),
    ("uvicorn", ServerState, ["connections", "default_headers", "tasks", "total_requests"], PROTOCOL),
    ("uvicorn", lambda: Config(app="x"), ["timeout_keep_alive"], PROTOCOL),
]


def changed(library: str, what: str, file: str) -> str:
    return (
        f"{library} {version(library)}: {what} is not as it was in {READ_AT[library]}; "
        f"read its new form and mend {file}"
    )


@pytest.mark.parametrize(
    ("library", "name", "parameters", "file"), CALLABLES, ids=lambda value: str(value)[:60]
)
def test_a_callable_takes_what_it_took(library, name, parameters, file):
    assert list(inspect.signature(name).parameters) == parameters, changed(library, name.__qualname__, file)


@pytest.mark.parametrize(("library", "make", "names", "file"), ATTRIBUTES)
def test_an_object_has_the_attributes_it_had(library, make, names, file):
    missing = [name for name in names if not hasattr(make(), name)]
    assert not missing, changed(library, f"attributes {missing}", file)


@pytest.mark.parametrize("library", READ_AT)
def test_a_library_is_pinned_to_the_version_that_was_read(library):
    assert version(library).startswith(f"{READ_AT[library]}."), f"read the names above in {version(library)}"
