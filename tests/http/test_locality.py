"""While access rests on loopback alone, only programs of this machine's own user are local."""

from __future__ import annotations

import pytest

from cortex_site.http.locality import Locality
from cortex_site.http.origins import Origins
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request

LOCALITY = Locality(["Box.lan"], Origins(["http://localhost:*"]))


def objection(peer="127.0.0.1", **headers) -> str | None:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return LOCALITY.objection(Request(ParsedRequest("POST", headers=raw), (peer, 1) if peer else None))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", ""])
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:31313",
        "localhost.:31313",
        "127.0.0.1:31313",
        "[::1]:31313",
        "app.localhost",
        "BOX.lan:80",
    ],
)
def test_a_program_on_this_machine_is_local(peer, host):
    assert objection(peer, host=host) is None


def test_a_host_that_is_no_name_in_dns_is_not_local():
    assert "names neither loopback" in objection(host="a" * 250 + ".localhost")


def test_an_old_client_without_a_host_is_local():
    assert objection() is None


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "fe80::1%eth0"])
def test_another_machine_is_not(peer):
    assert "another machine" in objection(peer, host="localhost")


@pytest.mark.parametrize(
    "header", ["forwarded", "x_forwarded_for", "x_forwarded_proto", "x_real_ip", "via", "x_forwarded_host"]
)
def test_what_a_proxy_passed_on_is_not(header):
    why = objection(host="localhost", **{header: "127.0.0.1"})
    assert f"`{header.replace('_', '-')}`" in why


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:31313", "localhost.evil.example", "192.0.2.7"]
)
def test_a_name_that_is_not_this_hosts_is_not(host):
    assert "allowed_hosts" in objection(host=host)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_page_of_another_origin_is_not(headers):
    assert "page of another origin" in objection(host="127.0.0.1:31313", **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://127.0.0.1:31313", "sec_fetch_site": "same-origin"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "none"},
    ],
)
def test_its_own_pages_and_allowed_ones_are_local(headers):
    assert objection(host="127.0.0.1:31313", **headers) is None
