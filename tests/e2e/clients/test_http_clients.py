"""Programs that matter for how they speak HTTP: the JDK's client, and a page in a browser."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from cortex_site.http.http2_connection import Http2Connection
from tests.e2e.clients.install import HERE, java, node, npm_modules
from tests.e2e.clients.running import last_line, run
from tests.gateway.conftest import make_house
from tests.stubs.certificates import SelfMade

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PAGE = """HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<pre id="told"></pre><script>
const ask = async () => {
  const body = JSON.stringify(%(body)s);
  const headers = {"content-type": "application/json", "authorization": "Bearer none"};
  const response = await fetch("%(url)s/v1/chat/completions", {method: "POST", headers, body});
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) text += piece;
  return {status: response.status, id: response.headers.get("x-request-id"), text};
};
ask().catch(String).then((told) => { document.getElementById("told").textContent = JSON.stringify(told); });
</script>"""


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP_2"), (False, "HTTP_1_1")])
async def test_the_jdks_client_with_its_defaults(tmp_path, http2, version):
    asked = [json.dumps(CHAT | {"stream": stream, "user": "u" * 70_000}) for stream in (True, False, True)]
    async with make_house(http2=http2) as house:
        url = f"http://127.0.0.1:{house.port}/v1/chat/completions"
        told = await run([java(), HERE / "Ask.java", url, *asked], tmp_path, tmp_path)
        lines = told.strip().splitlines()
        assert [line.split()[:2] for line in lines] == [[version, "200"]] * 3
        assert all("data: [DONE]" in line for line in lines[::2])
        assert "Hello there." in lines[1]
        assert [request.json["user"] for request in house.node.requests] == ["u" * 70_000] * 3


@asynccontextmanager
async def page(house, url):
    content = PAGE % {"url": url, "body": json.dumps(CHAT | {"stream": True})}

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_page_streams_a_chat(tmp_path, tls, monkeypatch):
    spoken, begin = [], Http2Connection.begin
    monkeypatch.setattr(Http2Connection, "begin", lambda *given: (spoken.append("h2"), begin(*given)))
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"} if tls else {}
    SelfMade().write(tmp_path)
    program = await asyncio.to_thread(node)
    await asyncio.to_thread(npm_modules)
    async with make_house(allowed_origins=["http://localhost:*"], verify=False, **files) as house:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{house.port}"
        async with page(house, url) as address:
            told = last_line(await run([program, HERE / "page.mjs", address], tmp_path, tmp_path))
        assert (told["status"], told["text"].endswith("data: [DONE]\n\n")) == (200, True)
        assert told["id"]
    assert bool(spoken) == tls  # browsers speak HTTP/2 over TLS alone
