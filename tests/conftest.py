from __future__ import annotations

import os
import tempfile

import django
from hypothesis import settings

# One Django for the whole run, with its state in a folder of its own.
os.environ["CORTEX_STATE_DIR"] = tempfile.mkdtemp(prefix="cortex-test-")
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="cortex-metrics-"))
os.environ["DJANGO_SETTINGS_MODULE"] = "cortex_site.settings"
django.setup()

# A slow machine is not a wrong answer.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
