from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import django
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

# Where torch is not installed, as on a gateway host, everything else is tested.
NEED_TORCH = ["device", "models", "e2e", "neuron/test_images.py", "neuron/test_tiny.py"]
collect_ignore = [] if importlib.util.find_spec("torch") else NEED_TORCH

# A slow machine is not a wrong answer.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
