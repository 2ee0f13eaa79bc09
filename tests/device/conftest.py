from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neuron.device.memory import exempt_from_collection
from tests.device.zoo import save


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def exempt_imported() -> None:
    """As in a worker: each load collects garbage, and what pytest imported would make that slow."""
    exempt_from_collection()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama") / "model")
