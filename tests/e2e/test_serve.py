"""`cortex serve` as in production: PostgreSQL, a Redis of its own, two hosts, one of them broken or away."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from neuron.models.tiny import WEIGHTS_DIR
from tests.device.vision_models import picture, save
from tests.e2e.conftest import TINY, Stack, clean_environment, free_base_port
from tests.stubs.tls import get, post

pytestmark = pytest.mark.e2e

QUESTION = "Which port does neuron listen on?"

CONFIG = """
state_dir = "{home}"
models_config = "models.toml"
[gateway]
listen = "127.0.0.1:{api}"
metrics_listen = "127.0.0.1:{metrics}"
admin_listen = "127.0.0.1:{admin}"
workers = 2
[poll]
interval_s = 1
timeout_s = 1
[[neurons]]
name = "here"
endpoint = "http://127.0.0.1:{neuron}"
token = "a-shared-secret"
[[neurons]]
name = "away"
endpoint = "http://127.0.0.1:9"
"""

MODELS = """
[[models]]
id = "helexa-tiny"
[[models]]
id = "broken"
source = "{broken}"
[[models]]
id = "sees"
source = "{sees}"
[[models]]
id = "nowhere"
pinned_on = ["away"]
[aliases]
tiny = "helexa-tiny"
"""


def broken_model(folder: Path) -> Path:
    """A directory whose index names a shard that is not there."""
    folder.mkdir()
    for file in WEIGHTS_DIR.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "model-00002-of-2.safetensors"}}'
    )
    return folder


@pytest.fixture(scope="module")
def served(folder, redis, database):
    base = free_base_port()
    ports = {"api": base, "metrics": base + 1, "admin": base + 2, "neuron": base + 3}
    (folder / "cortex.toml").write_text(CONFIG.format(home=folder / "state", **ports))
    (folder / "models.toml").write_text(
        MODELS.format(broken=broken_model(folder / "broken"), sees=save(folder / "sees"))
    )
    (folder / "neuron.toml").write_text('token = "a-shared-secret"\n')
    env = {"CORTEX_DATABASE__URL": database.url, "CORTEX_REDIS__URL": redis.url}
    yield from serve(folder, base, clean_environment() | env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


def serve(folder: Path, base: int, env: dict[str, str]):
    python = (sys.executable, "-m")
    listen = ("--listen", f"127.0.0.1:{base + 3}")
    with (folder / "neuron.log").open("wb") as log:
        command = [*python, "neuron.cli", "serve", "--config", str(folder / "neuron.toml"), *listen]
        neuron = subprocess.Popen(command, stderr=log, env=env)
    command = [*python, "cortex_site", "serve", "--config", str(folder / "cortex.toml")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    running = Stack(folder / "state", base, process)
    try:
        running.read_until("Ctrl-C ends it", 180)
        running.drain()
        running.eventually(lambda: get(f"{running.api}/health").json()["nodes"]["healthy"] == 1)
        yield running
    finally:
        code = running.stop()
        neuron.terminate()
        neuron.wait(30)
    assert code == 0


def error_of(response: httpx.Response) -> dict[str, str]:
    return response.json()["error"]


def test_a_cold_model_is_loaded_for_its_alias(served):
    answer = served.chat(QUESTION, model="tiny")
    assert answer.status_code == 200, answer.text
    assert "13131" in answer.text


def test_a_broken_model_fails_with_file_and_cause_and_harms_nothing(served):
    answer = served.chat(QUESTION, model="broken")
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "model_broken"
    assert "model-00002-of-2.safetensors" in error_of(answer)["message"]
    assert "13131" in served.chat(QUESTION).text


def test_a_model_for_a_host_that_is_away_is_refused_with_the_reason(served):
    answer = served.chat(QUESTION, model="nowhere")
    assert answer.status_code == 503
    assert "away" in error_of(answer)["message"]


def test_an_image_is_seen_where_the_model_can_and_refused_where_it_cannot(served):
    """In both dialects, and counted beforehand as it is billed afterwards."""
    image = base64.b64encode(picture(1)).decode()
    parts = [
        {"type": "text", "text": "w1"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    ask = {"messages": [{"role": "user", "content": parts}], "max_tokens": 4}
    url = f"{served.api}/v1/chat/completions"
    seen = post(url, json=ask | {"model": "sees"}, timeout=60)
    assert seen.status_code == 200, seen.text
    source = {"type": "base64", "media_type": "image/png", "data": image}
    blocks = [{"type": "text", "text": "w1"}, {"type": "image", "source": source}]
    body = {"model": "sees", "messages": [{"role": "user", "content": blocks}]}
    counted = post(f"{served.api}/v1/messages/count_tokens", json=body, timeout=60).json()
    said = post(f"{served.api}/v1/messages", json=body | {"max_tokens": 4}, timeout=60).json()
    prompt_tokens = seen.json()["usage"]["prompt_tokens"]
    assert counted["input_tokens"] == said["usage"]["input_tokens"] + said["usage"]["cache_read_input_tokens"]
    assert counted["input_tokens"] == prompt_tokens > 16
    listed = get(f"{served.api}/v1/models/sees").json()
    assert "vision" in listed["capabilities"]
    refused = post(url, json=ask | {"model": TINY}, timeout=60)
    assert refused.status_code == 400
    assert TINY in error_of(refused)["message"]


def test_models_of_the_whole_fleet(served):
    listed = get(f"{served.api}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["broken", TINY, "nowhere", "sees", "tiny"]
    assert listed[-1]["alias_of"] == TINY


def test_both_workers_count_in_one_metrics_page(served):
    for _ in range(20):
        served.chat(QUESTION)
    pattern = re.compile(rf'^cortex_requests_total{{.*model="{TINY}".*outcome="ok"}} ([\d.]+)$', re.MULTILINE)

    def count() -> float:
        found = pattern.findall(get(f"{served.metrics}/metrics").text)
        return sum(map(float, found))

    served.eventually(lambda: count() >= 20)


def missing(served: Stack) -> list[str]:
    return get(f"{served.api}/health").json()["missing"]


def test_a_loaded_model_answers_while_the_whole_control_plane_is_away(served, redis, database):
    served.chat(QUESTION)
    served.eventually(lambda: missing(served) == [])
    database.stop()
    redis.stop()
    for name in ("tasks", "beat"):
        served.process_of(name).kill()
    control = served.process_of("control")
    control.suspend()  # killed it would come back at once, database or not
    try:
        for _ in range(20):  # from both workers
            assert "13131" in served.chat(QUESTION).text
        gone = ["database", "redis", "control"]
        served.eventually(lambda: all(missing(served) == gone for _ in range(10)))
        assert "13131" in served.chat(QUESTION).text
    finally:
        control.resume()
    database.start()
    redis.start()
    served.eventually(lambda: all(missing(served) == [] for _ in range(10)))
    served.eventually(lambda: get(f"{served.admin}/admin/login/").status_code == 200)
    assert "13131" in served.chat(QUESTION).text


def test_tasks_that_hang_are_missing_until_they_run_again(served):
    served.eventually(lambda: served.process_of("beat").is_running())  # it may be on its way back
    beat = served.process_of("beat")
    beat.suspend()
    try:
        served.eventually(lambda: all(missing(served) == ["tasks"] for _ in range(10)))
        assert "13131" in served.chat(QUESTION).text
    finally:
        beat.resume()
    served.eventually(lambda: all(missing(served) == [] for _ in range(10)))


def test_no_secret_is_in_the_logs(served):
    assert "a-shared-secret" not in served.text
    assert "Bearer" not in served.text
