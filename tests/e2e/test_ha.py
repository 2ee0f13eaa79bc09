"""Two gateways with one PostgreSQL and one Redis, and a neuron that joined them: either may be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import TINY, clean_environment, free_base_port
from tests.stubs.tls import get, post

pytestmark = pytest.mark.e2e

QUESTION = "Which port does neuron listen on?"
PATIENCE_S = 120

CONFIG = """
state_dir = "{home}"
models_config = "models.toml"
[gateway]
listen = "127.0.0.1:{0}"
metrics_listen = "127.0.0.1:{1}"
admin_listen = "127.0.0.1:{2}"
configuration_check_s = 0.5
[poll]
interval_s = 1
timeout_s = 1
[join]
heartbeat_s = 0.5
drop_after_s = 2
"""
MAKE_KEYS = """
import django
django.setup()
from fleet.key_limits import KeyLimits
from fleet.services import keys
print(keys.create("free")[1], keys.create("four", limits=KeyLimits(requests_per_minute=4))[1])
"""


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except (httpx.HTTPError, KeyError):
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@dataclass
class Gateway:
    """One `cortex serve`; what it writes goes to `serve.log` in its folder."""

    folder: Path
    base: int
    env: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.base}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.base + 2}"

    def start(self) -> None:
        command = [sys.executable, "-m", "cortex_site", "serve", "--config", str(self.folder / "cortex.toml")]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.env)
        self.starts += 1

    def until_serving(self) -> None:
        log = self.folder / "serve.log"
        eventually(
            lambda: log.read_text().count("Ctrl-C ends it") == self.starts,
            f"{self.folder.name} does not start",
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    def ask(self, **extra) -> httpx.Response:
        body = {"model": TINY, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0} | extra
        return post(f"{self.api}/v1/chat/completions", json=body, headers=self.headers, timeout=PATIENCE_S)

    def cortex(self, *arguments: str) -> str:
        command = [
            sys.executable,
            "-m",
            "cortex_site",
            *arguments,
            "--config",
            str(self.folder / "cortex.toml"),
        ]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def models(self) -> list[dict]:
        return get(f"{self.api}/v1/models", headers=self.headers).json()["data"]

    def loads(self) -> int:
        operations = json.loads(self.cortex("ops", "--json", "--limit", "500"))["operations"]
        return sum(operation["kind"] == "load" for operation in operations)


@dataclass
class Pair:
    first: Gateway
    second: Gateway
    neuron: subprocess.Popen[bytes]
    limited: dict[str, str]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, redis, database) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("ha")
    env = clean_environment() | {"CORTEX_DATABASE__URL": database.url, "CORTEX_REDIS__URL": redis.url}
    gateways = [gateway(folder / name, free_base_port(), env) for name in ("first", "second")]
    neuron = None
    try:
        for one in gateways:  # together: the database is empty
            one.start()
        for one in gateways:
            one.until_serving()
        neuron = join(gateways[0], folder)
        free, four = make_keys(gateways[0])
        for one in gateways:
            one.headers = {"authorization": f"Bearer {free}"}
            eventually(lambda one=one: one.models(), "the neuron did not join")
        eventually(lambda: is_ready(gateways[0]), "the neuron's device did not start")
        yield Pair(*gateways, neuron, {"authorization": f"Bearer {four}"})
    finally:
        for one in gateways:
            one.stop()
        if neuron is not None:
            neuron.terminate()
            neuron.wait(60)


def gateway(folder: Path, base: int, env: dict[str, str]) -> Gateway:
    folder.mkdir()
    config = CONFIG.format(base, base + 1, base + 2, home=folder / "state")
    (folder / "cortex.toml").write_text(config)
    (folder / "models.toml").write_text(f'[[models]]\nid = "{TINY}"\n')
    return Gateway(folder, base, env | {"CORTEX_CONFIG": str(folder / "cortex.toml")})


def join(one: Gateway, folder: Path) -> subprocess.Popen[bytes]:
    token = one.cortex("join-token", "--name", "test").strip()
    command = [sys.executable, "-m", "neuron.cli", "serve", "--listen", "127.0.0.1:0", "--name", "here"]
    with (folder / "neuron.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--join", one.admin], stderr=log, env=one.env | {"NEURON_JOIN__TOKEN": token}
        )


def is_ready(one: Gateway) -> bool:
    (node,) = json.loads(one.cortex("status", "--json"))["nodes"]
    return {device["state"] for device in node["devices"]} == {"ready"}


def make_keys(one: Gateway) -> list[str]:
    env = one.env | {"DJANGO_SETTINGS_MODULE": "cortex_site.site.settings"}
    made = subprocess.run(
        [sys.executable, "-c", MAKE_KEYS], env=env, capture_output=True, text=True, check=True
    )
    return made.stdout.split()


def test_both_say_the_same(pair):
    def nodes(one: Gateway) -> dict:
        return get(f"{one.api}/health").json()["nodes"]

    for one in (pair.first, pair.second):
        eventually(lambda one=one: nodes(one) == {"healthy": 1, "total": 1}, "the neuron is not there")
    assert pair.first.models() == pair.second.models()
    assert [model["id"] for model in pair.first.models()] == [TINY]


def test_a_cold_model_asked_for_at_both_is_loaded_once(pair):
    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(one.ask) for one in (pair.first, pair.second) * 4]
        answers = [ask.result() for ask in asking]
    assert [answer.status_code for answer in answers] == [200] * 8, answers[0].text
    assert all("13131" in answer.text for answer in answers)
    assert pair.first.loads() == 1
    eventually(lambda: pair.first.models() == pair.second.models(), "they differ")
    assert pair.second.models()[0]["loaded"]


def test_a_keys_limit_holds_over_both(pair):
    def ask(one: Gateway) -> int:
        body = {"model": TINY, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
        return post(
            f"{one.api}/v1/chat/completions", json=body, headers=pair.limited, timeout=PATIENCE_S
        ).status_code

    statuses = [ask(one) for one in (pair.first, pair.second) * 3]
    assert statuses[:4] == [200] * 4
    assert 429 in statuses[4:]


def test_either_may_be_killed_and_the_other_loses_nothing(pair):
    with traffic_at(pair.second) as answers:
        pair.first.kill()
        more(answers, 10)
        pair.second.cortex("unload", TINY)  # it has a control plane of its own
        pair.second.cortex("load", TINY)
        more(answers, 3)
    pair.first.start()
    pair.first.until_serving()
    with traffic_at(pair.first) as answers:
        pair.second.kill()
        more(answers, 10)
    assert [model["nodes"][0]["name"] for model in pair.first.models()] == ["here"]


def more(answers: list[httpx.Response], number: int) -> None:
    seen = len(answers)
    eventually(lambda: len(answers) >= seen + number, "the traffic stopped")


@contextmanager
def traffic_at(one: Gateway) -> Iterator[list[httpx.Response]]:
    """Requests one after the other, each of which must be answered in full; every second one is streamed."""
    answers: list[httpx.Response] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            answers.append(one.ask(stream=len(answers) % 2 == 0))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        more(answers, 3)
        yield answers
    finally:
        enough.set()
        asking.join(PATIENCE_S)
    assert not [answer.text for answer in answers if answer.status_code != 200]
    assert all("[DONE]" in answer.text for answer in answers[::2])
    assert all("13131" in answer.text for answer in answers[1::2])


def test_no_secret_is_in_the_logs(pair):
    logs = [*(pair.first.folder.parent).rglob("*.log")]
    assert len(logs) >= 3
    for key in (pair.first.headers, pair.limited):
        secret = key["authorization"].removeprefix("Bearer ")
        assert not any(secret in log.read_text() for log in logs)
    assert not any("join-cortex-" in log.read_text() for log in logs)
