"""Device workers: one process per device, started, watched, replaced, and asked to load and to generate.

`DeviceWorker` keeps one worker running, `PendingWork` holds what that was asked, and `TorchHarness` places
models on workers and loads them again after a crash. Nothing here imports torch: workers are other processes,
spoken to through `neuron.pipe`.
"""

from __future__ import annotations
