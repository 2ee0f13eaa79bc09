"""A device worker: the process, started by the daemon, in which one thread owns one device for life.

    main thread     reads and writes the pipe, nothing else                          channel
    cpu-dev-0       handles the messages and steps the models, round robin            loop
                    keeps the models, each with scheduler, cache and runner           slab

The only place where `neuron.engine`, `neuron.device` and `neuron.models` meet.
"""

from __future__ import annotations

import os

# OpenMP reads this when torch is imported, so it stands before all that does. Threads that spin while they
# wait for each other make a worker that shares its cores with anything else 10 to 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
