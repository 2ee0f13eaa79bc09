"""Many neurons that only report their state: one process, a socket each, answers made beforehand."""

from __future__ import annotations

import asyncio
from multiprocessing.queues import Queue

from neuron.wire import DeviceHealth, DeviceInfo, Discovery, Health, ModelInfo, ModelLoad

DEVICES, MEMORY_MB, RESIDENTS = 4, 81_559, 3


def serve(nodes: int, models: int, ports: Queue[list[int]]) -> None:
    """Listen on `nodes` free ports of 127.0.0.1, put their numbers into `ports`, and answer until killed."""
    asyncio.run(_serve(nodes, models, ports))


async def _serve(nodes: int, models: int, ports: Queue[list[int]]) -> None:
    servers = [
        await asyncio.start_server(_Node(number, models).answer, "127.0.0.1", 0) for number in range(nodes)
    ]
    ports.put([server.sockets[0].getsockname()[1] for server in servers])
    await asyncio.Event().wait()


class _Node:
    def __init__(self, number: int, models: int) -> None:
        residents = sorted({(number + 7 * i) % models for i in range(RESIDENTS)})
        infos = [
            ModelInfo(
                id=f"model-{i}", source="hub", state="loaded", devices=[n], memory_mb=40_000, context=32_768
            )
            for n, i in enumerate(residents)
        ]
        health = Health(
            status="ok",
            uptime_s=1000,
            pid=number + 1,
            rss_mb=900,
            devices=[
                DeviceHealth(index=i, state="ready", memory_used_mb=41_000, memory_free_mb=40_000, worker="w")
                for i in range(DEVICES)
            ],
            models=[ModelLoad(id=info.id, running=3, max_running=32) for info in infos],
        )
        discovery = Discovery(
            version="0",
            hostname=f"host-{number}",
            os="Linux",
            kernel="6",
            harnesses=["torch"],
            devices=[
                DeviceInfo(index=i, name="NVIDIA H100", kind="cuda", memory_total_mb=MEMORY_MB)
                for i in range(DEVICES)
            ],
        )
        bodies = {
            b"/health": health.model_dump_json(),
            b"/models": "[" + ",".join(info.model_dump_json() for info in infos) + "]",
            b"/downloads": "[]",
            b"/discovery": discovery.model_dump_json(),
        }
        self._answers = {path: _response(body.encode()) for path, body in bodies.items()}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answers[head.split(b" ", 2)[1]])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
