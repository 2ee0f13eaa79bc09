"""Which product is the fastest for a format on a device: tried once, on random weights, and logged.

A candidate that fails, or comes to other numbers than dequantising does, is left out. The few rows of a
decode step and the many of a prompt have a winner each, as long as both read the weights as they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuron.models.cuda.candidate import Candidate
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.matrix import Groups, Matrix

log = logging.getLogger("neuron.models")

Measure = Callable[[Callable[[], Tensor]], float]  # seconds of a call

ROWS = (1, 16, 512)  # that candidates multiply
_TOLERANCE = 0.05  # of the results' deviation; activations of 8-bit floats are off by 0.03
_WORTH_PACKING = 0.9  # of the time of the best that need not be


def rank(candidates: Sequence[Candidate], trial: Matrix, measure: Measure) -> dict[int, list[Candidate]]:
    """Return the candidates that work for each number of `ROWS`, the fastest first.

    One that packs the weights stands first for all, or is left out.
    """
    times = {candidate: found for candidate in candidates if (found := _times(candidate, trial, measure))}
    for candidate, found in times.items():
        milliseconds = {str(rows): round(1000 * seconds, 4) for rows, seconds in found.items()}
        log.info(
            "product measured",
            extra={"format": trial.format.name, "product": candidate.name, "ms_by_rows": milliseconds},
        )
    plain = [candidate for candidate in times if not candidate.is_packed]
    ranked = {rows: sorted(plain, key=lambda each: times[each][rows]) for rows in ROWS}
    if not plain:
        return ranked
    least = sum(times[ranked[rows][0]][rows] for rows in ROWS)
    packed = [candidate for candidate in times if candidate.is_packed]
    for candidate in packed:
        if sum(times[candidate].values()) < _WORTH_PACKING * least:
            return {rows: [candidate, *ranked[rows]] for rows in ROWS}
    return ranked


def _times(candidate: Candidate, trial: Matrix, measure: Measure) -> Mapping[int, float] | None:
    """Return the seconds for each number of rows; None for a candidate that does not work."""
    if not candidate.suits(trial):
        return None
    try:
        product = candidate.build(trial)
        found: dict[int, float] = {}
        for rows in ROWS:
            arguments = _arguments(trial, rows)
            _check(product(*arguments), trial, arguments)
            found[rows] = measure(lambda arguments=arguments: product(*arguments))  # type: ignore[misc]
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.info("product not used", extra={"product": candidate.name, "reason": reason})
        return None
    return found


def _arguments(trial: Matrix, rows: int) -> tuple[Any, ...]:
    device = trial.blocks[0].device
    x = torch.randn(rows, trial.in_features, device=device, dtype=torch.bfloat16)
    if trial.ndim == 2:
        return (x,)
    experts = torch.randint(0, len(trial.blocks[0]), (rows,), device=device).sort().values
    return x, Groups(experts, len(trial.blocks[0]))


def _check(found: Tensor, trial: Matrix, arguments: tuple[Any, ...]) -> None:
    x, *groups = arguments
    if groups:
        sizes, parts = groups[0].sizes, []
        for index, rows in enumerate(torch.split(x, sizes)):
            parts.append(dequantized_product(trial[index])(rows))
        wanted = torch.cat(parts).float()
    else:
        wanted = dequantized_product(trial)(x).float()
    off, most = (found.float() - wanted).norm().item(), _TOLERANCE * wanted.norm().item()
    if not off <= most:
        raise ValueError(f"its results are off by {off:.3g}, and may be by {most:.3g}")


def seconds_on_cuda(call: Callable[[], Tensor]) -> float:
    """Return the seconds that a call takes on the current device, the best of several."""
    best = float("inf")
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(4):
            call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 4000)
    return best
