"""`cortex doctor` on what is there and what is not."""

from __future__ import annotations

import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from cortex_site.cli.app import app
from cortex_site.cli.doctor import machine, nodes, services
from cortex_site.cli.doctor.finding import clock
from cortex_site.config.cortex_toml import CortexConfig, DatabaseSettings, NeuronEntry, RedisSettings
from cortex_site.processes.supervisor import STATE_FILE
from neuron.wire import PROTOCOL, DeviceInfo, Discovery
from tests.fleet.servers import RedisServer

DEVICE = DeviceInfo(index=0, name="a GPU", kind="cuda", memory_total_mb=1)
WELL = Discovery(version="1", hostname="h", os="o", kernel="k", devices=[DEVICE], harnesses=["torch"])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("CORTEX_STATE_DIR")


@pytest.fixture
def node():
    """A server that answers with what `answer` holds: status, body, and how late its clock is."""

    class Handler(BaseHTTPRequestHandler):
        answer = (200, WELL.model_dump_json(), 0)

        def do_GET(self) -> None:
            status, body, late_s = self.answer
            self.send_response_only(status)
            self.send_header("date", format_datetime(datetime.now(UTC) - timedelta(seconds=late_s)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    Handler.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def look_at(node, kind="neuron") -> list:
    entry = NeuronEntry(name="a", kind=kind, endpoint=node.endpoint)
    return list(nodes.all_of(CortexConfig(neurons=[entry])))


def wrong(findings) -> list[str]:
    return [f"{finding.fact}; {finding.cure}" for finding in findings if finding.cure]


def test_a_node_that_is_well(node):
    assert wrong(look_at(node)) == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((200, WELL.model_dump_json(), 60), "neuron", "behind ours; run an NTP client"),
        ((200, "{}", 0), "neuron", 'no neuron; say kind = "openai"'),
        ((401, "", 0), "neuron", "refuses our token (401); give both the same token"),
        ((404, "", 0), "openai", "answered 404 to /v1/models; look whether"),
        (
            (200, WELL.model_copy(update={"protocol": PROTOCOL + 1}).model_dump_json(), 0),
            "neuron",
            f"protocol {PROTOCOL + 1}, this cortex {PROTOCOL}; update one of them",
        ),
        (
            (200, WELL.model_copy(update={"cuda_unavailable_reason": "Torn; reboot."}).model_dump_json(), 0),
            "neuron",
            "CUDA cannot be used: Torn; reboot",
        ),
    ],
)
def test_what_is_wrong_with_a_node_has_its_cure(node, answer, kind, words):
    node.answer = answer
    (found,) = wrong(look_at(node, kind))
    assert words in found


def test_a_node_that_is_away():
    entry = NeuronEntry(name="a", endpoint="http://127.0.0.1:9")
    (found,) = wrong(nodes.all_of(CortexConfig(neurons=[entry])))
    assert "does not answer" in found


def test_clocks_are_compared_in_both_directions():
    assert not clock("x", datetime.now(UTC)).cure
    assert "ahead of ours" in clock("x", datetime.now(UTC) + timedelta(minutes=1)).fact


def test_a_port_that_another_program_has(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = CortexConfig(state_dir=tmp_path, gateway={"metrics_listen": listen})
        (found,) = wrong(each for each in machine.ports(config) if each.subject == "gateway.metrics_listen")
        assert f"process {os.getpid()}, has it" in found
        (tmp_path / "processes.json").write_text(json.dumps({"supervisor": os.getpid()}))
        ours = [each for each in machine.ports(config) if each.subject == "gateway.metrics_listen"]
        assert [finding.cure for finding in ours] == [""]


def test_a_state_directory_that_others_may_read(tmp_path):
    tmp_path.chmod(0o755)
    assert wrong(machine.home(CortexConfig(state_dir=tmp_path))) == [
        f"others may read {tmp_path}; chmod 700 {tmp_path}"
    ]


def test_drivers_of_gpus(tmp_path):
    card, driver = tmp_path / "pci" / "0000:01:00.0", tmp_path / "version"
    assert wrong(machine.gpus(tmp_path / "pci", driver)) == []
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    (found,) = wrong(machine.gpus(tmp_path / "pci", driver))
    assert found.startswith("1 NVIDIA GPU(s) without a driver; install")
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n")
    (well,) = machine.gpus(tmp_path / "pci", driver)
    assert (well.fact, well.cure) == ("1 NVIDIA GPU(s), driver 550.54.15", "")


def test_redis_there_and_away(tmp_path):
    server = RedisServer(tmp_path)
    config = CortexConfig(redis=RedisSettings(url=server.url))
    server.start()
    try:
        assert wrong(services.redis_server(config)) == []
        server.client.config_set("maxmemory", 1 << 30)
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        (found,) = wrong(services.redis_server(config))
        assert "drops keys when it is full (allkeys-lru)" in found
    finally:
        server.client.close()
        server.stop()
    (found,) = wrong(services.redis_server(config))
    assert "does not answer" in found


def test_sqlite_there_broken_and_not_yet(tmp_path):
    config = CortexConfig(state_dir=tmp_path)
    assert wrong(services.database(config)) == []
    (tmp_path / "cortex.sqlite3").write_bytes(b"no database" * 100)
    (found,) = wrong(services.database(config))
    assert "cortex restore FILE" in found


def test_postgres_there_and_away(postgres_url):
    assert wrong(services.database(CortexConfig(database=DatabaseSettings(url=postgres_url)))) == []
    config = CortexConfig(database=DatabaseSettings(url="postgresql://me:hunter2@127.0.0.1:9/x"))
    (found,) = wrong(services.database(config))
    assert "does not answer" in found
    assert "hunter2" not in found


def test_the_exit_code_says_whether_cortex_can_run(tmp_path, node):
    path = tmp_path / "cortex.toml"
    path.write_text(f'[redis]\nurl = "unix://{tmp_path}/none.sock"\n')
    told = CliRunner().invoke(app, ["doctor", "--config", str(path), "--home", str(tmp_path), "--json"])
    assert told.exit_code == 1
    findings = {finding["subject"]: finding for finding in json.loads(told.stdout)["findings"]}
    assert findings["redis"]["fatal"]
    assert not findings["nodes"]["fatal"]


@pytest.mark.parametrize("runs", [True, False])
def test_what_a_running_up_adds_is_looked_at_too(tmp_path, node, runs):
    server = RedisServer(tmp_path)
    server.start()
    try:
        state = {"supervisor": os.getpid() if runs else 1 << 30, "redis": server.url, "neuron": node.endpoint}
        (tmp_path / STATE_FILE).write_text(json.dumps(state))
        told = CliRunner().invoke(app, ["doctor", "--home", str(tmp_path), "--json"])
    finally:
        server.client.close()
        server.stop()
    wrong = [finding["subject"] for finding in json.loads(told.stdout)["findings"] if finding["cure"]]
    assert ("redis" in wrong, "nodes" in wrong) == (not runs, not runs)
