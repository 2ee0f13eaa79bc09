"""The peers, each pinned to the gateway's core and set up to be fast.

A peer that does not serve the mock node is reported with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.gateway.mock import MODEL
from bench.gateway.processes import Server, launch
from bench.processes import clean_environment

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


@dataclass(frozen=True, kw_only=True)
class Router(peers.Peer):
    """`command(folder, port, node)` writes what the peer reads and returns the command that starts it."""

    command: Callable[[Path, int, int], list[str]]
    verbatim: bool = True
    key: str = ""

    def start(self, stack: ExitStack, folder: Path, *, port: int, node: int, core: int) -> Server:
        """Start it; it may not be ready yet. `stack` ends it."""
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


def _peer(name: str, needs: str, *before: str) -> Router:
    return Router(name, needs, command=_router(name, *before))


PEERS = (
    Router("nginx", command=_nginx),
    _peer("vllm-router", "vllm-router==0.1.17"),
    Router(peers.LITELLM.name, peers.LITELLM.needs, command=_litellm, verbatim=False, key=LITELLM_KEY),
    _peer("smg", "smg==1.13.0", "launch"),
    _peer("sglang-router", "sglang-router==0.3.2", "launch"),
)
BY_NAME = {peer.name: peer for peer in PEERS}
