"""A device worker: a process that the daemon starts, in which one thread owns one device for life.

    main thread     reads and writes the pipe, nothing else                      channel
    cpu-dev-0       handles messages and steps the models in turn                loop
                    holds the models, each with scheduler, cache and runner      model_pool
    grammars        compiles the grammars of guided requests                     grammar_thread
    images          decodes the images of requests                               image_thread

The only place where `neuron.engine`, `neuron.device` and `neuron.models` meet.
"""

from __future__ import annotations

import os

# OpenMP reads this when torch is imported, so it must be set before. Threads that spin while they wait for
# each other make a worker that shares its cores 10 to 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
