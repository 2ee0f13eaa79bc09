"""Device workers: one process per device, started, watched, replaced, and asked to load and to generate.

`DeviceWorker` keeps one worker running; `TorchHarness` places models on workers and brings them back after a
crash; a `Generation` is one request on its way. Nothing here imports torch: workers are other processes,
spoken to through `neuron.pipe`.
"""

from __future__ import annotations
