"""What scripts of the admin's pages do, in a browser in front of the admin and fake neurons."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.e2e.clients.browser import Page, browser, serving_admin
from tests.fleet.conftest import (  # noqa: F401
    client_for,
    database_url,
    db,
    fleet,
    folder,
    migrated,
    redis_server,
    staff,
)
from tests.stubs.fake_neuron import FakeNeuron

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume"),  # static files
]
Shown = Callable[[str], AbstractAsyncContextManager[Page]]
DOWNLOADS, LINES = "document.querySelector('#downloads')", "document.querySelector('#lines').textContent"


@pytest.fixture
def shown(staff, tmp_path) -> Shown:  # noqa: F811
    """Opens a page of the admin."""

    @asynccontextmanager
    async def show(path: str) -> AsyncIterator[Page]:
        async with serving_admin() as url, browser(tmp_path) as page:
            await page.open(f"{url}{path}", staff.cookies["cortex_session"].value)
            yield page
            assert await page.errors() == []

    return show


@pytest.fixture
def n1(fleet) -> FakeNeuron:  # noqa: F811
    return fleet.node("n1")


def download(state: str, message: str = "") -> list[dict[str, object]]:
    return [{"source": "org/m", "state": state, "done_mb": 5, "total_mb": 9, "message": message}]


async def test_a_download_is_cancelled_by_its_button(shown: Shown, n1: FakeNeuron):
    n1.answers |= {"/downloads": download("running"), "/downloads/cancel": {}}
    async with shown("fleet/add-model/") as page:
        await page.until(f"{DOWNLOADS}.querySelector('li button')")
        assert await page.value(f"{DOWNLOADS}.querySelector('progress').value") == 5
        await page.tab_to("#downloads li button")
        await page.press("Enter")
        told = await page.until(
            f"/n1|not/.exec({DOWNLOADS}.querySelector('[role=status]').textContent)?.input"
        )
        assert told == "org/m is being cancelled on n1."
        n1.answers["/downloads"] = download("cancelled", "Files that have come whole are kept.")
        await page.until(f"{DOWNLOADS}.textContent.includes('cancelled: Files that have come whole')")
        assert await page.value(f"{DOWNLOADS}.querySelector('li button')") is None


async def test_why_a_download_was_not_cancelled_is_said(shown: Shown, n1: FakeNeuron):
    n1.answers["/downloads"] = download("running")  # and no answer to the cancelling
    async with shown("fleet/add-model/") as page:
        await page.until(f"{DOWNLOADS}.querySelector('li button')")
        await page.tab_to("#downloads li button")
        await page.press("Enter")
        await page.until(f"{DOWNLOADS}.textContent.includes('org/m was not cancelled: ')")


async def test_the_lines_of_a_node_are_followed(shown: Shown, n1: FakeNeuron):
    first = {"time": "2026-01-01T00:00:00.000+00:00", "level": "info", "message": "one", "request_id": "r1"}
    n1.answers["/logs"] = {"lines": [json.dumps(first), "no JSON"], "end": 2}
    async with shown("fleet/logs/") as page:
        await page.until(f"{LINES}.includes('no JSON')")
        assert await page.value(LINES) == "2026-01-01T00:00:00.000  info    one  request_id=r1no JSON"
        n1.answers["/logs"] = {"lines": ["two"], "end": 3}
        await page.until(f"{LINES}.endsWith('two')")
        assert (await page.value(LINES)).startswith("2026-01-01")
        n1.stop()
        await page.until("document.querySelector('#count').textContent.includes('n1 does not answer')")
