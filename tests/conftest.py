from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import django
import pytest
from hypothesis import settings

# One Django for the whole run, with its state in a folder of its own.
_FOLDER = Path(tempfile.mkdtemp(prefix="cortex-test-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.environ["CORTEX_STATE_DIR"] = str(_FOLDER)
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    (_FOLDER / "metrics").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_FOLDER / "metrics")
os.environ["DJANGO_SETTINGS_MODULE"] = "cortex_site.site.settings"
django.setup()

# Where torch is not installed, as on a gateway host, all tests run but these and those marked `torch`.
HAS_TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = [
    "bench/test_benches.py",
    "bench/test_gpu.py",
    "device",
    "e2e",
    "gguf",
    "models",
    "neuron/test_images.py",
    "neuron/test_tiny.py",
]
collect_ignore = [] if HAS_TORCH else NEED_TORCH


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not HAS_TORCH and item.get_closest_marker("torch"):
        pytest.skip("torch is not installed")


# A slow machine is not a wrong answer. Tests without a number of examples of their own take more.
EXAMPLES = int(os.environ.get("CORTEX_EXAMPLES", "100"))
settings.register_profile("no-deadline", deadline=None, max_examples=EXAMPLES)
settings.load_profile("no-deadline")
