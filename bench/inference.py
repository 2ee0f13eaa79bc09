"""How benchmarks of the engine set torch and transformers up."""

from __future__ import annotations

import torch
import transformers


def set_up(threads: int | None = None) -> None:
    """Compute for inference on that many threads, or torch's own number, and let transformers be silent."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
