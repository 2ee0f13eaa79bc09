"""A device worker: a process that the daemon starts, in which one thread owns one device for life.

    main thread     reads and writes the pipe, nothing else                      channel
    cpu-dev-0       handles messages and steps the models in turn                loop
                    holds the models, each with scheduler, cache and runner      model_pool, resident_model
                    and, of models on several devices, the link to other ranks   rank_link, rank_plan
    grammars        compiles the grammars of guided requests                     grammar_thread
    images          decodes the images of requests                               image_thread

The only place where `neuron.engine`, `neuron.device` and `neuron.models` meet.
"""

from __future__ import annotations

import os

# Both are read when torch is imported, so they must be set before. Threads that spin while they wait for each
# other make a worker that shares its cores 10 to 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Large tensors of the CPU lie in huge pages: products with weights that were joined while they were loaded,
# as experts are, take a fifth less time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
