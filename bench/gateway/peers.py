"""The peers, each from an environment of its own, pinned to the gateway's core and set up to be fast.

`prepare` makes the environments under `bench/.venvs`; nginx comes from the system. A peer that is not there,
or does not serve the mock node, is reported with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.common import clean_environment
from bench.gateway.mock import MODEL
from bench.gateway.processes import Server, launch

VENVS = Path(__file__).parents[1] / ".venvs"
START_S = 60.0
LITELLM_KEY = "sk-bench"

NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    keepalive_requests 1000000000;
    upstream node {{ server 127.0.0.1:{node}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: "openai/{model}", api_base: "http://127.0.0.1:{node}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """`command(folder, port, node)` writes what it reads and returns the command; `needs` is pip's name."""

    name: str
    command: Callable[[Path, int, int], list[str]]
    needs: str = ""
    verbatim: bool = True
    key: str = ""

    @property
    def environment(self) -> Path:
        return VENVS / self.needs.partition("=")[0].replace("[", "-").rstrip("]")

    def program(self, name: str) -> str:
        return str(self.environment / "bin" / name)

    def missing(self) -> str:
        """Why it cannot be started; empty when it can."""
        if not self.needs:
            return "" if shutil.which(self.name) else f"{self.name} is not on PATH"
        if (self.environment / "ready").is_file() and (self.environment / "ready").read_text() == self.needs:
            return ""
        return f"{self.needs} is not installed: python -m bench.gateway prepare"

    def version(self) -> str:
        if self.needs:
            return self.needs.partition("==")[2]
        shown = subprocess.run([self.name, "-v"], capture_output=True, text=True, check=False)
        return (shown.stderr + shown.stdout).strip().rpartition("/")[2]

    def start(self, stack: ExitStack, folder: Path, *, port: int, node: int, core: int) -> Server:
        """Started, and ended with `stack`. It may not be ready yet."""
        home = folder / self.name
        home.mkdir()
        command = self.command(home, port, node)
        process = launch(
            stack, command, core=core, log=home / "log", env=clean_environment(LITELLM_LOG="ERROR")
        )
        return Server(self.name, port, process, home / "log", key=self.key, verbatim=self.verbatim)


def _nginx(folder: Path, port: int, node: int) -> list[str]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, node=node))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def _router(peer: str, *before: str) -> Callable[[Path, int, int], list[str]]:
    def command(folder: Path, port: int, node: int) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{node}"]
        # The exporter has a port of its own, fixed unless it is named.
        return [
            BY_NAME[peer].program(peer),
            *before,
            *where,
            "--policy",
            "round_robin",
            "--prometheus-port",
            str(port + 1),
        ]

    return command


def _litellm(folder: Path, port: int, node: int) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(LITELLM.format(model=MODEL, node=node, key=LITELLM_KEY))
    where = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return [BY_NAME["litellm"].program("litellm"), "--config", str(config), *where]


PEERS = (
    Peer("nginx", _nginx),
    Peer("vllm-router", _router("vllm-router"), "vllm-router==0.1.17"),
    Peer("litellm", _litellm, "litellm[proxy]==1.106.2", verbatim=False, key=LITELLM_KEY),
    Peer("smg", _router("smg", "launch"), "smg==1.13.0"),
    Peer("sglang-router", _router("sglang-router", "launch"), "sglang-router==0.3.2"),
)
BY_NAME = {peer.name: peer for peer in PEERS}


def prepare() -> None:
    """Make the environments that are not there yet. What pip refuses is said, and the others are made."""
    for peer in PEERS:
        if not peer.needs or not peer.missing():
            continue
        print(f"{peer.needs} …", file=sys.stderr)
        python = peer.environment / "bin" / "python"
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(peer.environment)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", peer.needs],
        )
        if all(subprocess.run(command, check=False).returncode == 0 for command in commands):
            (peer.environment / "ready").write_text(peer.needs)
        else:
            print(f"{peer.needs}: not installed", file=sys.stderr)
