"""The processes of `cortex serve`: what each is told to listen on."""

from __future__ import annotations

from contextlib import closing

from cortex_site.config.cortex_toml import CortexConfig, GatewaySettings
from cortex_site.processes.programs import Sockets, serve_programs

ANY = "127.0.0.1:0"


def test_the_gateway_s_workers_serve_a_second_address(tmp_path):
    gateway = GatewaySettings(listen=ANY, metrics_listen=ANY, admin_listen=ANY, ollama_listen=ANY, workers=2)
    config = CortexConfig(state_dir=tmp_path, gateway=gateway)
    with closing(Sockets.bind(config)) as sockets:
        *_, workers = serve_programs(config, sockets, {})
        fds = tuple(sock.fileno() for sock in sockets.of_api)
        assert len(fds) == 2
        for worker in workers:
            assert worker.fds == fds
            assert tuple(worker.argv[-3:]) == ("--fd", *map(str, fds))


def test_without_one_there_is_one_socket(tmp_path):
    gateway = GatewaySettings(listen=ANY, metrics_listen=ANY, admin_listen=ANY)
    with closing(Sockets.bind(CortexConfig(state_dir=tmp_path, gateway=gateway))) as sockets:
        assert sockets.of_api == (sockets.api,)
