"""What scripts of the admin's pages do, in a browser in front of the admin and fake neurons."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from django.utils import timezone

from fleet.models import RequestMetric
from fleet.services import polling, usage
from tests.e2e.clients.browser import Page, browser, serving_admin
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
def shown(staff, tmp_path) -> Shown:
    """Opens a page of the admin."""

    @asynccontextmanager
    async def show(path: str) -> AsyncIterator[Page]:
        async with serving_admin() as url, browser(tmp_path) as page:
            await page.open(f"{url}{path}", staff.cookies["cortex_session"].value)
            yield page
            assert await page.errors() == []

    return show


@pytest.fixture
def n1(fleet) -> FakeNeuron:
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


@pytest.fixture
def rows(fleet, n1: FakeNeuron) -> None:
    """A model with a long name, and a request to it with large numbers."""
    name = "organisation/a-model-with-a-long-name-q4_k_m"
    fleet.model(name)
    n1.has(name)
    polling.poll()
    same = {"model": name, "node": "n1", "key": "laptop of somebody", "dialect": "openai-responses"}
    tokens = {"prompt_tokens": 123_456, "cached_tokens": 65_432, "completion_tokens": 12_345}
    how = {"outcome": "cancelled", "status": 499, "stream": True, "latency_s": 123.4, "ttft_s": 0.0123}
    request_id = "req-b0eea834a2e249590000000001"
    RequestMetric.objects.create(request_id=request_id, started_at=timezone.now(), **same, **tokens, **how)
    usage.roll_up()


async def test_no_list_is_cut(shown: Shown, rows: None):
    async with shown("fleet/requestmetric/") as page:
        for name in ("requestmetric", "usagerollup", "modelprofile", "placement", "device", "node"):
            await page.value(f"void (location.href = '../{name}/')")
            await page.until(
                f"location.href.endsWith('/{name}/') && document.querySelector('#result_list tbody')"
            )
            results = "document.querySelector('.results')"
            width, room = await page.value(f"[{results}.scrollWidth, {results}.clientWidth]")
            assert width <= room + 1, name
