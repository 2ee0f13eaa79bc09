"""The gateway speaks TLS itself, and reaches nodes that do."""

from __future__ import annotations

import asyncio
import logging
import ssl

import httpx
import pytest
import uvloop

from cortex_site.base.certificate import Certificate, CertificateError, server_context
from cortex_site.base.probe import http_get
from cortex_site.base.settings_file import ConfigError
from cortex_site.config import load_catalogue, load_config
from cortex_site.config.contradictions import warnings
from fleet.snapshot import NodeConfig
from tests.gateway.conftest import make_house
from tests.stubs.certificates import SelfMade
from tests.stubs.fake_node import FakeNode, say_often


@pytest.fixture
def pair(tmp_path):
    made = SelfMade()
    made.write(tmp_path)
    return made


@pytest.fixture
def files(pair, tmp_path):
    return {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}


@pytest.fixture
async def house(pair, files):
    async with make_house(verify=pair.trusted(), **files) as built:
        yield built


async def test_chat_and_streams(house):
    whole, stream = await house.chat(), await house.chat(stream=True)
    assert whole.json()["choices"][0]["message"]["content"] == "Hello there."
    assert "there" in stream.text
    assert stream.text.endswith("data: [DONE]\n\n")


async def test_a_stream_that_its_client_reads_slowly_is_whole(house):
    word = "x" * 10_000
    house.node.answer = say_often(word, 300)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with house.client.stream("POST", "/v1/chat/completions", json=body) as response:
        await asyncio.sleep(0.1)  # by now nobody can take more
        text = "".join([piece async for piece in response.aiter_text()])
    assert text.count(word) == 300
    assert text.endswith("data: [DONE]\n\n")


async def test_a_client_that_leaves_is_noticed(house):
    async def hang(request, writer):
        await request.gone.wait()

    house.node.answer = hang
    asking = asyncio.create_task(house.chat())
    async with asyncio.timeout(10):
        while not house.node.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        await house.node.requests[-1].gone.wait()
    assert (await house.record()).status == 499


def test_it_works_on_uvloop(pair, files):
    """The loop of a real worker; its TLS is another implementation."""

    async def ask() -> None:
        async with make_house(verify=pair.trusted(), **files) as house:
            await test_chat_and_streams(house)
            await test_a_stream_that_its_client_reads_slowly_is_whole(house)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())


async def test_a_refusal_within_a_body_is_read_whole(house, pair, monkeypatch):
    monkeypatch.setattr("cortex_site.http.endings.LINGER_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=pair.trusted())
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
    writer.write(b" " * 100_000)
    assert (await reader.readline()).startswith(b"HTTP/1.1 4")
    assert b'"error"' in await reader.read()
    writer.close()


async def test_what_is_spoken(house, pair):
    context = pair.trusted()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=context)
    spoken = writer.get_extra_info("ssl_object")
    assert (spoken.version(), spoken.selected_alpn_protocol()) == ("TLSv1.3", "h2")
    writer.close()


@pytest.mark.parametrize(("version", "is_served"), [("TLSv1_2", True), ("TLSv1_1", False)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_an_old_tls_is_refused(house, pair, version, is_served):
    context = pair.trusted()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with httpx.AsyncClient(verify=context) as client:
        asking = client.get(f"https://127.0.0.1:{house.port}/health")
        if is_served:
            assert (await asking).status_code == 200
        else:
            with pytest.raises(httpx.ConnectError):
                await asking


async def test_plain_http_is_closed_and_harms_nobody(house):
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.RemoteProtocolError):
            await plain.get(f"http://127.0.0.1:{house.port}/health")
    assert (await house.chat()).status_code == 200


async def test_a_handshake_that_stalls_is_ended(pair, files):
    async with make_house(verify=pair.trusted(), handshake_timeout_s=0.1, **files) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"\x16\x03\x01\x02\x00")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        assert (await house.chat()).status_code == 200


async def test_a_probe_of_this_machine(house):
    assert (await http_get("127.0.0.1", house.port, "/health", tls=True))[0] == 200
    assert (await http_get("127.0.0.1", house.port, "/health"))[0] == 0


async def common_name(port: int) -> str:
    """The name in the certificate that the server shows, checked against nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(shown)


async def test_a_new_pair_is_used_for_new_connections(pair, files, tmp_path, monkeypatch):
    monkeypatch.setattr("cortex_site.base.certificate.CHECK_S", 0.02)
    new = SelfMade("two")
    async with make_house(verify=pair.trusted(), **files) as house:
        assert (await house.chat()).status_code == 200
        new.write(tmp_path)
        async with asyncio.timeout(10):
            while await common_name(house.port) != new.cert.decode():
                await asyncio.sleep(0.02)
        assert (await house.chat()).status_code == 200  # the connection from before
        async with httpx.AsyncClient(verify=new.trusted()) as client:
            assert (await client.get(f"https://127.0.0.1:{house.port}/health")).status_code == 200


BROKEN = {
    "the key of another": (lambda pair: {"key.pem": SelfMade().key}, "key.pem: is not the key of"),
    "no key": (lambda pair: {"key.pem": b""}, "key.pem: has no private key in PEM; tls_key"),
    "no certificate": (lambda pair: {"cert.pem": b"x"}, "cert.pem: has no certificate in PEM; tls_cert"),
    "a torn one": (lambda pair: {"cert.pem": pair.cert[:200]}, "cert.pem and "),
    "a passphrase": (lambda pair: {"key.pem": pair.encrypted_key}, "key.pem: has a passphrase; `openssl"),
    "none there": (lambda pair: {"cert.pem": None}, "cert.pem: cannot be read: No such file"),
}


def damage(folder, contents) -> None:
    for name, content in contents.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", BROKEN)
def test_a_pair_that_cannot_be_used(pair, files, tmp_path, caplog, name):
    make, words = BROKEN[name]
    used = Certificate(cert=files["tls_cert"], key=files["tls_key"])
    damage(tmp_path, make(pair))
    with caplog.at_level(logging.INFO, "cortex.tls"):
        used.refresh()
        used.refresh()
        pair.write(tmp_path)
        used.refresh()
    assert [record.message for record in caplog.records] == [
        "the changed certificate cannot be used; the old one stays",
        "the changed certificate is in use",
    ]
    assert words in caplog.records[0].reason
    damage(tmp_path, make(pair))
    with pytest.raises(CertificateError) as caught:
        server_context(*files.values())
    assert words in str(caught.value)


async def test_a_broken_pair_leaves_the_old_one(pair, files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cortex_site.base.certificate.CHECK_S", 0.02)
    async with make_house(verify=pair.trusted(), **files) as house:
        damage(tmp_path, {"key.pem": SelfMade().key})
        async with asyncio.timeout(10):
            while not caplog.records:
                await asyncio.sleep(0.02)
        async with httpx.AsyncClient(verify=pair.trusted()) as client:
            assert (await client.get(f"https://127.0.0.1:{house.port}/health")).status_code == 200


def test_a_check_names_what_is_wrong(pair, tmp_path):
    path = tmp_path / "cortex.toml"
    path.write_text('[gateway]\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n')
    config = load_config(path)
    assert config.gateway.tls_key == tmp_path / "key.pem"
    assert warnings(config, load_catalogue(config)) == []
    damage(tmp_path, {"key.pem": b""})
    [found] = warnings(config, load_catalogue(config))
    assert found.startswith(f"gateway.tls_cert, tls_key: {tmp_path}/key.pem: has no private key in PEM")


def test_one_file_alone_is_a_mistake(tmp_path):
    path = tmp_path / "cortex.toml"
    path.write_text('[gateway]\ntls_cert = "cert.pem"\n')
    with pytest.raises(ConfigError, match=r"cortex\.toml:1: gateway: tls_key is missing"):
        load_config(path)


async def test_a_node_over_tls(pair, files):
    node = server_context(*files.values())
    async with make_house(node_tls=node, node_ca=files["tls_cert"]) as house:
        assert (await house.chat()).status_code == 200
        assert (await house.chat(stream=True)).text.endswith("data: [DONE]\n\n")


async def test_a_node_that_nobody_vouches_for_is_away(files):
    async with make_house(loaded=False, nodes=0) as house:
        node = FakeNode("n", server_context(*files.values()))
        await node.start()
        house.control.change(nodes={"n": NodeConfig("n", node.url)})
        await house.until(
            lambda snapshot: (
                "n" in snapshot.nodes and "certificate verify failed" in snapshot.nodes["n"].reason
            )
        )
        await node.stop()
