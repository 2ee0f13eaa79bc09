"""Rotary frequencies that a checkpoint divides one by one, where no configuration says by what."""

from __future__ import annotations

from typing import Any

import torch

from neuron.models.checkpoint import Checkpoint, model_broken


def divide_frequencies(model: Any, checkpoint: Checkpoint) -> None:
    """Divide the frequencies of all rotations of a model. Raises ModelLoadError if they are not as many."""
    divisors = torch.tensor(checkpoint.rope_divisors)
    rotations = [module for module in model.modules() if hasattr(module, "inv_freq")]
    for rotation in rotations:
        frequencies = rotation.inv_freq
        if frequencies.shape != divisors.shape:
            cause = f"has {len(divisors)} divisors of frequencies, but the model has {len(frequencies)}"
            raise model_broken(checkpoint.path, cause)
        rotation.inv_freq = frequencies / divisors.to(frequencies)
    if not rotations:
        raise model_broken(checkpoint.path, "has divisors of frequencies, but its model does not rotate")
