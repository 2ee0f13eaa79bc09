"""Pages of other origins: only those that are allowed may read answers (CORS, fetch.spec.whatwg.org)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cortex_site.config.cortex_toml import GatewaySettings
from cortex_site.http.origins import Origins


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://chat.example.org", True),
        ("https://chat.example.org:443", False),
        ("https://chat.example.org.evil.com", False),
        ("https://evil.com/https://chat.example.org", False),
        ("http://chat.example.org", False),
        ("HTTPS://chat.example.org", False),
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("http://localhost:", False),
        ("http://localhost:x", False),
        ("http://localhost:5173:80", False),
        ("http://localhost.evil.com:5173", False),
        ("http://[::1]:3000", True),
        ("http://[::1]", True),
        ("app://obsidian.md", True),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_is_allowed_exactly_or_at_any_port(origin, allowed):
    listed = ["https://chat.example.org", "http://localhost:*", "http://[::1]:*", "app://obsidian.md"]
    assert Origins(listed).allow(origin) is allowed


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "localhost:3000", "https://*.example.org", "https://a.org/", "https://a.org/x", "https://A.org",
     "https://a.org:x", "https://a:b@c.org", "https://", "https://a.org, https://b.org"],
)  # fmt: skip
def test_what_no_browser_sends_as_an_origin_is_a_mistake_in_the_file(origin):
    with pytest.raises(ValidationError, match="expected an origin as browsers send it"):
        GatewaySettings(allowed_origins=[origin])
