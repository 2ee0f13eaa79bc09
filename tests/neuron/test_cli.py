from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import psutil
import pytest

from cortex_site.base.version import VERSION
from tests.stubs.certificates import SelfMade


def run(*arguments, **environment):
    command = [sys.executable, "-m", "neuron.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )


def test_version_option_prints_the_version():
    result = run("--version")
    assert (result.returncode, result.stdout.strip()) == (0, f"neuron {VERSION}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--config", "/does/not/exist.toml"], "/does/not/exist.toml: cannot be read"),
        (["serve", "--listen", "13131"], "--listen 13131: expected HOST:PORT"),
        (["serve", "--listen", "203.0.113.1:1"], "cannot listen on 203.0.113.1:1"),
    ],
)
def test_failed_start_is_one_line_and_exit_code_2(arguments, expected):
    result = run(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert expected in line


def test_every_mistake_in_the_configuration_has_a_line(tmp_path):
    path = tmp_path / "neuron.toml"
    path.write_text("nonsense = 1\n[device]\nthreads = 'x'\n")
    result = run("serve", "--config", str(path))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 2


def test_a_taken_port_is_one_line_and_exit_code_2():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--listen", f"127.0.0.1:{port}")
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "in use" in line


@pytest.mark.torch
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_a_stop_signal(stop):
    """The daemon answers from the start and ends at any time, whether its worker is ready or not."""
    command = [sys.executable, "-m", "neuron.cli", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"CORTEX_LOG": "json"}
    ) as it:
        watchdog = threading.Timer(120, it.kill)
        watchdog.start()
        url = next(line["url"] for line in map(json.loads, it.stderr) if line["message"] == "neuron listens")
        with httpx.Client(base_url=url, timeout=120) as http:
            assert http.get("/version").json()["version"] == VERSION
            health = http.get("/health").json()
            assert health["pid"] == it.pid
            assert health["rss_mb"] < 120
            discovery = http.get("/discovery").json()
            assert discovery["hostname"] == socket.gethostname()
        it.send_signal(stop)
        rest = it.stderr.read()
        assert it.wait() == 0
        watchdog.cancel()
    assert not re.search("Traceback|Exception", rest)


def test_it_serves_over_tls(tmp_path):
    made = SelfMade()
    files = made.write(tmp_path)
    config = tmp_path / "neuron.toml"
    config.write_text("".join(f'{key} = "{path}"\n' for key, path in files.items()))
    arguments = ("serve", "--listen", "127.0.0.1:0", "--config", str(config))
    command = [sys.executable, "-m", "neuron.cli", *arguments]
    environment = os.environ | {"CORTEX_LOG": "json"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as it:
        watchdog = threading.Timer(120, it.kill)
        watchdog.start()
        url = next(line["url"] for line in map(json.loads, it.stderr) if line["message"] == "neuron listens")
        assert url.startswith("https://127.0.0.1:")
        version = httpx.get(f"{url}/version", verify=made.trusted(), timeout=120)
        assert version.json()["version"] == VERSION
        it.send_signal(signal.SIGTERM)
        it.stderr.read()
        assert it.wait() == 0
        watchdog.cancel()


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path):
    files = SelfMade().write(tmp_path)
    files["tls_key"].write_bytes(SelfMade().key)
    result = run("serve", **{f"NEURON_{key.upper()}": str(path) for key, path in files.items()})
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"neuron: tls_cert, tls_key: {files['tls_key']}: is not the key of the first" in line


FORBIDDEN = {"torch", "transformers", "numpy", "celery", "fleet", "huggingface_hub"}


def test_the_daemon_imports_no_torch():
    code = "import neuron.cli, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FORBIDDEN & set(result.stdout.split())


def test_a_killed_daemon_leaves_no_worker():
    command = [sys.executable, "-m", "neuron.cli", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as it:
        watchdog = threading.Timer(120, it.kill)
        watchdog.start()
        while not (workers := psutil.Process(it.pid).children()):
            pass
        it.kill()
        watchdog.cancel()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
