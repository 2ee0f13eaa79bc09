"""A group of real workers whose model has a head: what it writes, and that it comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.device import vision_models
from tests.device.heads import save_with_head
from tests.neuron.conftest import Neuron, config, neuron_with, until
from tests.neuron.test_images import WORKER, ask

DEVICE = {"threads": 1, "memory_mb": 2000, "kv_mb": 16}
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "w1 w2 w3"}],
    "max_tokens": 24,
    "temperature": 0,
    "ignore_eos": True,
}


def with_texts(path: Path) -> Path:
    """A directory whose model reads and writes words."""
    vision_models.tokenizer().save_pretrained(path)
    template = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    (path / "chat_template.jinja").write_text(template)
    return path


async def answer(neuron: Neuron) -> tuple[str, int]:
    """What is written, and how many tokens of it were guessed."""
    found = await ask(neuron, BODY)
    details = found["usage"].get("completion_tokens_details") or {}
    return found["choices"][0]["message"]["content"], details.get("accepted_prediction_tokens") or 0


async def is_loaded(neuron: Neuron) -> bool:
    return (await neuron.models())["m"]["state"] == "loaded"


async def test_a_group_that_loses_a_rank_drafts_again(tmp_path: Path):
    path = with_texts(save_with_head(tmp_path / "m", "glm4_moe", surely=True))
    async with neuron_with(config(device=DEVICE), worker=WORKER, devices=2) as neuron:
        assert (await neuron.load(path, speculation="off")).status_code == 200
        wanted, guessed = await answer(neuron)
        assert guessed == 0
        await neuron.http.post("/models/unload", json={"model_id": "m"})
        loaded = await neuron.load(path, tensor_parallel=2, speculation="mtp")
        assert loaded.status_code == 200, loaded.text
        said, guessed = await answer(neuron)
        assert said == wanted
        assert guessed > 8
        pid = (await neuron.http.get("/health")).json()["devices"][1]["pid"]
        os.kill(pid, signal.SIGKILL)

        async def has_another() -> bool:
            devices = (await neuron.http.get("/health")).json()["devices"]
            return devices[1]["pid"] not in {pid, None}

        await until(has_another)
        await until(lambda: is_loaded(neuron))
        said, guessed = await answer(neuron)
        assert said == wanted
        assert guessed > 8
