"""What an operator does: unload, load, look, and lose processes."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.e2e.conftest import TINY
from tests.stubs.tls import TLS, get, post

pytestmark = pytest.mark.e2e

QUESTION = "Which port does neuron listen on?"


def state_of(stack) -> str:
    return get(f"{stack.api}/v1/models/{TINY}", timeout=10).json()["state"]


def act(admin, page: str, action: str, *ids: str) -> httpx.Response:
    """Run an admin action on the rows with these primary keys."""
    form = {
        "action": action,
        "_selected_action": list(ids),
        "csrfmiddlewaretoken": admin.cookies["cortex_csrf"],
    }
    return admin.post(page, data=form, headers={"referer": str(admin.base_url)})


def rows(admin, page: str) -> list[str]:
    """Primary keys on a list page."""
    return re.findall(r'name="_selected_action" value="([^"]+)"', admin.get(page).text)


def unload_in_admin(stack, admin) -> None:
    page = "/admin/fleet/placement/"
    stack.eventually(lambda: rows(admin, page))  # the first poll makes them
    answer = act(admin, page, "unload", *rows(admin, page))
    assert answer.status_code == 200
    stack.eventually(lambda: state_of(stack) == "available")


def loads_in_neuron_log(stack) -> int:
    return (stack.home / "logs" / "neuron.log").read_text().count('"path":"/models/load"')


def is_whole(answer: httpx.Response) -> bool:
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    end = "data: [DONE]" if streamed else "13131"
    return answer.status_code == 200 and end in answer.text and '"error"' not in answer.text


def test_a_model_unloaded_in_the_admin_answers_the_next_request(stack, admin):
    unload_in_admin(stack, admin)
    answer = stack.chat(QUESTION)
    assert answer.status_code == 200, answer.text
    assert "13131" in answer.text
    assert state_of(stack) == "loaded"


def test_a_hundred_at_once_cause_one_load(stack, admin):
    unload_in_admin(stack, admin)
    before = loads_in_neuron_log(stack)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda stream: stack.chat(QUESTION, stream=stream), (False, True) * 50))
    assert [answer.text for answer in answers if not is_whole(answer)] == []
    stack.chat(QUESTION)
    stack.eventually(lambda: loads_in_neuron_log(stack) > before)  # lines are written some at a time
    assert loads_in_neuron_log(stack) == before + 1


def test_requests_that_race_an_unload_are_answered(stack, admin):
    """llama-swap#946: one of them starts a request on a model that is on its way out."""
    for _ in range(3):
        chosen = rows(admin, "/admin/fleet/placement/")
        with ThreadPoolExecutor(9) as pool:
            answers = [pool.submit(stack.chat, QUESTION, stream=n % 2 == 0) for n in range(4)]
            left = pool.submit(act, admin, "/admin/fleet/placement/", "unload", *chosen)
            answers += [pool.submit(stack.chat, QUESTION, stream=n % 2 == 0) for n in range(4)]
        assert left.result().status_code == 200
        assert [answer.result().text for answer in answers if not is_whole(answer.result())] == []


def test_admin_pages_show_the_fleet(stack, admin):
    pages = {
        "node": "local",
        "device": "cpu-dev-0",
        "modelprofile": TINY,
        "placement": TINY,
        "operation": "load",
        "requestmetric": TINY,
    }
    stack.chat(QUESTION)
    for page, word in pages.items():
        stack.eventually(lambda page=page, word=word: word in admin.get(f"/admin/fleet/{page}/").text, 20)


def test_a_finished_request_leaves_a_record_and_shows_in_prometheus(stack, admin):
    request_id = "e2e-record-1"
    body = {"model": TINY, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    post(f"{stack.api}/v1/chat/completions", json=body, headers={"x-request-id": request_id}, timeout=60)
    stack.eventually(lambda: request_id in admin.get(f"/admin/fleet/requestmetric/?q={request_id}").text, 20)
    text = get(f"{stack.metrics}/metrics", timeout=10).text
    for name in ("requests_total", "time_to_first_token_seconds_count", "completion_tokens_total"):
        line = re.search(rf'^cortex_{name}{{[^}}]*model="{TINY}"[^}}]*}} ([\d.]+)$', text, re.MULTILINE)
        assert line, f"{name} is missing"
        assert float(line[1]) > 0


def test_status(stack):
    shown = stack.cortex("status")
    assert shown.returncode == 0, shown.stderr
    for word in ("local", "cpu-dev-0", TINY, "loaded", "gateway-0", "redis"):
        assert word in shown.stdout
    told = json.loads(stack.cortex("status", "--json").stdout)
    memory = {process["name"]: process["rss_mb"] for process in told["processes"]}
    assert memory["gateway-0"] < 140
    assert memory["cpu-dev-0"] < 900


def test_every_request_is_one_line_in_the_log(stack):
    stack.chat("x", model="nope")

    def last() -> dict:
        lines = (stack.home / "logs" / "gateway-0.log").read_text().splitlines()
        return [json.loads(line) for line in lines if '"message":"request"' in line.replace(": ", ":")][-1]

    stack.eventually(lambda: last().get("error_code") == "model_not_found", 10)
    assert last()["status"] == 404
    assert last()["request_id"].startswith("req-")


@pytest.mark.parametrize("victim", ["neuron", "tasks", "redis", "beat", "control", "metrics", "gateway-0"])
def test_a_killed_process_is_back(stack, admin, victim):
    old = stack.process_of(victim)
    old.kill()
    stack.eventually(
        lambda: stack.process_of(victim).pid != old.pid and stack.process_of(victim).is_running()
    )
    stack.eventually(lambda: state_of(stack) == "loaded")
    stack.eventually(lambda: "13131" in stack.chat(QUESTION).text)
    unload_in_admin(stack, admin)
    assert "13131" in stack.chat(QUESTION).text


def worker_of(stack):
    return get(f"{stack.neuron}/health", timeout=10).json()["devices"][0]


def test_a_killed_device_worker_is_back_with_its_model(stack):
    before = worker_of(stack)
    psutil.Process(before["pid"]).kill()
    stack.eventually(
        lambda: worker_of(stack)["state"] == "ready" and worker_of(stack)["pid"] != before["pid"]
    )
    assert "13131" in stack.chat(QUESTION).text
    after = worker_of(stack)
    assert after["restarts"] == before["restarts"] + 1
    assert "SIGKILL" in after["reason"]


@pytest.mark.parametrize("victim", ["tasks", "beat", "redis", "control"])
def test_a_running_stream_survives_the_loss_of_the_control_plane(stack, victim):
    body = {
        "model": TINY,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 300,
    }
    pieces = []
    with httpx.stream(
        "POST", f"{stack.api}/v1/chat/completions", verify=TLS, json=body, timeout=60
    ) as response:
        for line in response.iter_lines():
            pieces.append(line)
            if len(pieces) == 10:
                stack.process_of(victim).kill()
    assert pieces[-2:] == ["data: [DONE]", ""]


def test_a_stream_ends_in_an_error_event_when_its_worker_dies(stack):
    body = {
        "model": TINY,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 4000,
    }
    stack.eventually(lambda: state_of(stack) == "loaded")
    lines = []
    with httpx.stream(
        "POST", f"{stack.api}/v1/chat/completions", verify=TLS, json=body, timeout=60
    ) as response:
        for line in response.iter_lines():
            lines += [line] if line else []
            if line and len(lines) == 5:
                psutil.Process(worker_of(stack)["pid"]).kill()
    assert "error" in json.loads(lines[-1].removeprefix("data: "))
    assert "data: [DONE]" not in lines
    stack.eventually(lambda: "13131" in stack.chat(QUESTION).text)
