"""A device worker: the process, started by the daemon, in which one thread owns one device for life.

    main thread     reads and writes the pipe, nothing else                          channel
    cpu-dev-0       handles the messages and steps the models, round robin            loop
                    keeps the models, each with scheduler, cache and runner           slab

The only place where `neuron.engine`, `neuron.device` and `neuron.models` meet.
"""

from __future__ import annotations
