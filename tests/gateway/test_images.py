"""Images: how many, how large, and from where."""

from __future__ import annotations

import asyncio
import base64
import ipaddress

import pytest

from fleet.gateway.dialects.image_fetcher import FetchError, ImageFetcher, is_public
from fleet.gateway.dialects.images import ImagePolicy
from tests.gateway.conftest import make_house
from tests.gateway.test_dialects import PICTURE, give_sight
from tests.stubs.fake_node import head

PNG = base64.b64decode("iVBORw0KGgo=")


class PictureHost:
    """A server on loopback that answers every request with `answer`; `seen` holds what came."""

    def __init__(self) -> None:
        self.answer = head(content_type="image/png", content_length=len(PNG)) + PNG
        self.seen: list[bytes] = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.seen.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer:
            writer.write(self.answer)
            writer.close()
        else:
            await reader.read()  # says nothing until the client leaves
            writer.close()


def named(*addresses):
    async def resolve(host, port):
        if not addresses:
            raise OSError("no such name")
        return list(addresses)

    return resolve


def anywhere(address):
    return True


@pytest.fixture
async def host():
    async with PictureHost() as built:
        yield built


def local(host):
    """Takes every name for the host's."""
    return ImageFetcher(named("127.0.0.1"), anywhere)


# --- what is fetched ---


async def test_it_goes_to_the_address_that_was_checked_under_the_name_that_was_asked_for(host):
    url = f"http://pictures.example:{host.port}/cat.png?x=1"
    assert await local(host).fetch(url, 100) == PICTURE
    (seen,) = host.seen
    assert seen.startswith(b"GET /cat.png?x=1 HTTP/1.1\r\n")
    assert f"host: pictures.example:{host.port}".encode() in seen.lower()
    assert b"cookie" not in seen.lower()
    assert b"authorization" not in seen.lower()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (head(302, location="http://127.0.0.1/", content_length=0), "answered 302"),
        (head(404, content_length=0), "answered 404"),
        (head(content_type="text/html", content_length=2) + b"hi", "not a JPEG"),
        (head(content_type="image/svg+xml", content_length=2) + b"hi", "not a JPEG"),
        (head(content_type="image/png", content_length=9) + b"123456789", "more than 8 bytes"),
        (head(content_type="image/png") + b"1234567890", "more than 8 bytes"),
        (b"nonsense\r\n\r\n", "Protocol"),
    ],
)
async def test_what_is_not_taken(host, answer, words):
    host.answer = answer
    with pytest.raises(FetchError, match=words):
        await local(host).fetch(f"http://h:{host.port}/", 8)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://h/x", "gopher://h", "http://", "http://u:p@h/", "http://h:x/", "//h/x", ""],
)
async def test_addresses_that_are_none(url):
    with pytest.raises(FetchError):
        await ImageFetcher(named("127.0.0.1"), anywhere).fetch(url, 8)


PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.1", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_no_name_leads_inside(host, address):
    for addresses in ((address,), ("8.8.8.8", address)):
        with pytest.raises(FetchError, match="public internet"):
            await ImageFetcher(named(*addresses)).fetch(f"http://innocent.example:{host.port}/", 8)
    assert not host.seen


async def test_an_address_that_is_written_out_is_checked_as_well(host):
    for name in ("127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f.1"):
        with pytest.raises(FetchError):
            await ImageFetcher().fetch(f"http://{name}:{host.port}/", 8)
    assert not host.seen


def test_public_addresses_are():
    for text in ("8.8.8.8", "93.184.216.34", "2606:4700::1111"):
        assert is_public(ipaddress.ip_address(text))


async def test_a_name_without_address():
    with pytest.raises(FetchError, match="no address"):
        await ImageFetcher(named()).fetch("http://h/", 8)


# --- through the gateway ---


def asking(path, url, times=1):
    match path:
        case "/v1/messages":
            block = {"type": "image", "source": {"type": "url", "url": url}}
            text = {"type": "text", "text": "?"}
            return {"max_tokens": 1, "messages": [{"role": "user", "content": [text, *[block] * times]}]}
        case "/v1/responses":
            part = {"type": "input_image", "image_url": url}
            return {"store": False, "input": [{"role": "user", "content": [part] * times}]}
    part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return {"messages": [{"role": "user", "content": [part] * times}]}


PLACES = {
    "/v1/chat/completions": "messages[0].content[0].image_url.url",
    "/v1/messages": "messages[0].content[1].source.url",
    "/v1/responses": "input[0].content[0].image_url",
}
DIALECTS = pytest.mark.parametrize("path", PLACES)


@pytest.fixture
async def open_house(host):
    async with make_house(fetch_images=True, fetch_images_timeout_s=2, max_images=2) as house:
        house.gateway.images = ImagePolicy(house.gateway.config.gateway, local(host))
        await give_sight(house)
        yield house


async def ask(house, path, *given):
    return await house.client.post(path, json={"model": "m"} | asking(path, *given))


def said(path, error):
    """The place that an error names: Anthropic's envelope has it in the message."""
    return error["message"].partition(":")[0] if path == "/v1/messages" else error["param"]


@DIALECTS
async def test_the_node_gets_the_picture_itself(open_house, host, path):
    assert (await ask(open_house, path, f"http://h:{host.port}/", 2)).status_code == 200
    (message,) = open_house.node.requests[0].json["messages"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert urls == [PICTURE, PICTURE]
    assert len(host.seen) == 1


@DIALECTS
async def test_what_cannot_be_fetched_is_named_where_the_client_said_it(open_house, host, path):
    host.answer = head(404, content_length=0)
    refused = await ask(open_house, path, f"http://h:{host.port}/")
    assert (refused.status_code, said(path, refused.json()["error"])) == (400, PLACES[path])
    assert "answered 404" in refused.text
    assert not open_house.node.requests


async def test_a_host_that_says_nothing_is_given_up(open_house, host):
    host.answer = b""
    refused = await ask(open_house, "/v1/chat/completions", f"http://h:{host.port}/")
    assert "longer than 2 s" in refused.json()["error"]["message"]


@DIALECTS
async def test_too_many_pictures_are_refused(open_house, path):
    refused = await ask(open_house, path, PICTURE if path != "/v1/messages" else "http://h/", 3)
    assert (refused.status_code, said(path, refused.json()["error"])) == (400, PLACES[path])
    assert "3 images; 2 are allowed" in refused.text


@DIALECTS
@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "https://example.com/cat.png", "file:///x"])
async def test_an_address_is_not_fetched_unless_that_is_on(house, path, url):
    await give_sight(house)
    refused = await ask(house, path, url)
    assert (refused.status_code, said(path, refused.json()["error"])) == (400, PLACES[path])
    assert not house.node.requests


async def test_a_picture_that_is_too_large_is_refused():
    async with make_house(max_image_bytes=300) as house:
        await give_sight(house)
        small, large = ("data:image/png;base64," + "A" * size for size in (400, 700))
        assert (await ask(house, "/v1/chat/completions", small)).status_code == 200
        refused = await ask(house, "/v1/chat/completions", large)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "image_too_large")
        source = {"type": "base64", "media_type": "image/png", "data": "A" * 700}
        body = {
            "max_tokens": 1,
            "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}],
        }
        refused = await house.client.post("/v1/messages", json={"model": "m"} | body)
        assert said("/v1/messages", refused.json()["error"]) == "messages[0].content[0].source.data"
