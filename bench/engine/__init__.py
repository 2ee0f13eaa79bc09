"""The engine, measured in the environment that a device worker has."""

from __future__ import annotations

import os

from neuron.supervisor.worker_process import DEFAULTS

for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)  # before torch is imported, which reads it then
