"""What a neuron logged of a model is told with it, so that a failure can be looked into from afar."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from neuron.model_lines import MOST_LINES, MOST_MODELS, ModelLines
from tests.neuron.conftest import config, neuron_with
from tests.stubs.model_dir import write_model


def record(model: object, text: str = "text", name: str = "neuron.models") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, text, None, None)
    made.model = model
    return made


def test_the_last_lines_of_each_model_are_kept():
    lines = ModelLines()
    for number in range(MOST_LINES + 5):
        lines.handle(record("m", str(number)))
        lines.handle(record("m", "a request", name="neuron.http"))
    lines.handle(record(None))
    kept = [json.loads(line)["message"] for line in lines.of("m")]
    assert kept == [str(number) for number in range(5, MOST_LINES + 5)]
    assert lines.of("other") == []


def test_the_oldest_of_too_many_models_are_forgotten():
    lines = ModelLines()
    for number in range(MOST_MODELS + 1):
        lines.handle(record(f"m{number}"))
    assert lines.of("m0") == []
    assert lines.of(f"m{MOST_MODELS}")


async def test_a_failed_load_tells_its_lines(tmp_path: Path):
    directory = write_model(tmp_path / "m")
    (directory / "config.json").write_text("{")
    async with neuron_with(config()) as neuron:
        spec = {"model_id": "m", "source": str(directory)}
        assert (await neuron.http.post("/models/load", json=spec)).status_code == 422
        lines = (await neuron.http.get("/models/m/log")).json()["lines"]
    assert any("model failed" in line and "config.json" in line for line in lines)
