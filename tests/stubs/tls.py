"""httpx for tests, which speak in the clear to servers on this machine."""

from __future__ import annotations

import ssl
from functools import partial

import httpx

# It knows no certificate authority: to read them all takes 20 ms a client, longer than most tests.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

get = partial(httpx.get, verify=TLS)
post = partial(httpx.post, verify=TLS)
