"""What we use of other projects though they do not document it: as it was when we read it.

A digest is of the source; names from C have none. When a test fails, read the name again in the installed
version, see whether the file that uses it is still right, then renew version and digest here.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from importlib import import_module, metadata

import pytest

from tests.architecture.tree import ROOT


@dataclass(frozen=True)
class Library:
    """`names` by the file that uses them."""

    name: str
    read_at: str  # the minor version
    names: dict[str, dict[str, str]]

    @property
    def installed(self) -> str:
        return metadata.version(self.name)


LIBRARIES = [
    Library(
        "uvicorn",
        "0.54",
        {
            "cortex_site/http/client_connection.py": {
                "uvicorn.config.Config.load": "92b7159dce10",  # `loaded_app` is the application itself
            },
            "cortex_site/http/protocol.py": {
                "uvicorn.server.Server.startup": "2aa1d70a244b",  # what a protocol is made with
                "uvicorn.server.Server.shutdown": "9b33c5056299",  # calls `shutdown` of every connection
                "uvicorn.server.Server._wait_tasks_to_complete": "17209be1e991",
                "uvicorn.server.ServerState": "f2260fbf1015",
                "uvicorn.protocols.utils.get_remote_addr": "5cb127377672",
            },
            "cortex_site/http/response_head.py": {
                "uvicorn.server.Server.on_tick": "60ea49b06ccf",  # makes a new list of default headers
            },
            "cortex_site/http/server.py": {
                "uvicorn.server.Server.startup": "2aa1d70a244b",  # listens on what it is given: on nothing
            },
            "neuron/cli.py": {
                "uvicorn.server.Server.handle_exit": "553276efa26e",
            },
        },
    ),
    Library(
        "django-ninja",
        "1.7",
        {
            "cortex_site/http/resolver.py": {
                "ninja.main.NinjaAPI._get_bound_routers": "d55223d3dd17",
                "ninja.main.NinjaAPI.create_temporal_response": "a21f9bd6e4c0",
                "ninja.main.NinjaAPI.on_exception": "238ef3f7f93d",
                "ninja.router.BoundRouter": "9b83889ea5cd",
                "ninja.operation.PathView": "5234b6a0c016",
                "ninja.operation.Operation.__init__": "e7786461d9e9",
                "ninja.operation.Operation._result_to_response": "6ca7ef1c987a",
                "ninja.operation.AsyncOperation.run": "7cb074bc1736",  # `run_bare` is its short form
            },
        },
    ),
    Library(
        "django",
        "5.2",
        {
            "cortex_site/http/request.py": {
                "django.http.request.HttpRequest.__init__": "e647f5dd531e",  # is not called
            },
            "cortex_site/http/response.py": {
                "django.http.response.HttpResponseBase.__init__": "02085fb94d60",  # is not called
                "django.http.response.HttpResponseBase.items": "e7eb0d1de3df",
                "django.http.response.HttpResponseBase.__setitem__": "235eb4688641",
                "django.http.response.HttpResponseBase.close": "84589f5b23ac",  # is replaced
            },
        },
    ),
    Library(
        "h2",
        "4.4",
        {
            "cortex_site/http/http2_connection.py": {
                "h2.connection.H2Connection.initiate_connection": "f197c4fc0ab7",  # sends `local_settings`
                "h2.connection.H2Connection._receive_headers_frame": "4a014e7d795a",  # compares with them
            },
        },
    ),
    Library(
        "httptools",
        "0.9",
        {
            "cortex_site/http/request_parser.py": {
                "httptools.HttpRequestParser.set_dangerous_leniencies": "",
                "httptools.HttpParserUpgrade": "d06d201ecc2f",  # its argument is an offset
            },
            "cortex_site/http/answer_reader.py": {
                "httptools.HttpResponseParser.should_keep_alive": "",
            },
        },
    ),
]
USES = [
    pytest.param(library, file, name, digest, id=name)
    for library in LIBRARIES
    for file, names in library.names.items()
    for name, digest in names.items()
]


def found(dotted: str) -> object:
    """The object of that name, wherever its module ends. Raises `AttributeError`."""
    module, _, rest = dotted.partition(".")
    thing: object = import_module(module)
    for part in rest.split("."):
        if inspect.ismodule(thing) and not hasattr(thing, part):
            import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part)
    return thing


def digest_of(thing: object) -> str:
    try:
        source = inspect.getsource(thing)
    except (TypeError, OSError):  # of C
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_minor_version_is_the_one_that_was_read(library):
    assert library.installed.startswith(f"{library.read_at}."), (
        f"{library.name} {library.installed} is installed, and its private names were read at "
        f"{library.read_at}: read them again for {', '.join(library.names)}."
    )


@pytest.mark.parametrize(("library", "file", "name", "digest"), USES)
def test_a_private_name_is_as_it_was_read(library, file, name, digest):
    try:
        thing = found(name)
    except (AttributeError, ImportError):
        pytest.fail(f"{library.name} {library.installed} has no {name} any more, which {file} relies on.")
    assert digest_of(thing) == digest, (
        f"{name} has changed in {library.name} {library.installed} since it was read at {library.read_at}, "
        f"and {file} relies on it."
    )


@pytest.mark.parametrize("file", sorted({use.values[1] for use in USES}))
def test_a_file_that_is_listed_is_there(file):
    assert (ROOT / file).is_file()
