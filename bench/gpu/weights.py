"""Products with weights as they are stored, and decode steps by them, beside the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.engine.measures import bandwidth
from bench.engine.serving import timed
from bench.gpu.case import Case, WrongError
from bench.gpu.decode import ours
from bench.gpu.lab import Lab, fused, num_bytes
from neuron.models.formats.floats import FLOATS
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.stored_weight import StoredWeight

SHARE = 0.8  # of the bandwidth, that a decode step of one request is to read weights at
BLOCKS = ("q8_0", "q4_0", "q4_k", "q6_k", "mxfp4")
ROWS = (1, 16, 512)
LEAST = 1e-12  # of a largest value, where all are zeros


def cases(_: str, lab: Lab) -> Iterator[Case]:
    shape = "least" if lab.is_smoke else "4B"
    speed = bandwidth(lab.device, 4 << 30 if lab.is_cuda else 64 << 20)
    stores = {"bf16": None, "fp8": fp8, "int4": int4}
    for name, store in stores.items():
        share = partial(decode_share, lab, shape, store, speed)
        yield Case(f"{shape} in {name}, 1 at once, share of bandwidth", "", "best", share)
    outputs, columns = (64, 256) if lab.is_smoke else (16_384, 4096)
    weight = torch.randn(outputs, columns, device=lab.device, dtype=torch.bfloat16)
    makes: dict[str, Callable[[], Matrix]] = {
        "bf16": lambda: Matrix(FLOATS, (weight,), None, columns),
        "fp8": lambda: fp8(weight).matrix,
        "int4": lambda: int4(weight).matrix,
    }
    makes |= {name: partial(blocks, name, outputs, columns, lab.device) for name in BLOCKS}
    for name, make in makes.items():
        for rows in ROWS:
            yield Case(f"{name}, {rows} rows", "GB/s", "product", partial(product, lab, make, rows))


def decode_share(lab: Lab, shape: str, store: Callable[[Tensor], StoredWeight] | None, speed: float) -> float:
    """The weights' bytes over the time of a step of one request, over the bytes a second of the memory.

    Raises `WrongError` where a GPU has less than `SHARE`.
    """
    lab.require(3.5 * num_bytes(shape, lab.dtype))
    model = lab.sides(shape).model
    decoder = fused(model, store)
    runner = lab.runner(decoder, lab.ways(decoder)[-1])
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    read = sum(stored_bytes(module.weight, store) for module in layers)
    share = read * ours(lab, runner, 1) / speed
    if lab.is_cuda and share < SHARE:
        raise WrongError(share, f"less than {SHARE}")
    return share


def stored_bytes(weight: Tensor, store: Callable[[Tensor], StoredWeight] | None) -> int:
    return sum(block.nbytes for block in store(weight).matrix.blocks) if store else weight.nbytes


def product(lab: Lab, make: Callable[[], Matrix], rows: int) -> float:
    """Billions of the weights' bytes a second."""
    matrix = make()
    multiply = matrix.product()
    x = torch.randn(rows, matrix.in_features, device=lab.device, dtype=torch.bfloat16)
    run: Callable[[], object] = partial(multiply, x)
    if lab.is_cuda:
        run = lab.capture()(lambda: multiply(x))
    run()
    seconds = min(timed(run) for _ in range(3 if lab.is_smoke else 20))
    return sum(block.nbytes for block in matrix.blocks) / seconds / 1e9


# --- weights as they are stored ---------------------------------------------------------------------------


def fp8(weight: Tensor) -> StoredWeight:
    """With a scale for each output."""
    largest = weight.float().abs().amax(1, keepdim=True).clamp(min=LEAST)
    scales = largest / torch.finfo(torch.float8_e4m3fn).max
    codes = (weight / scales).to(torch.float8_e4m3fn).view(torch.uint8)
    columns = weight.shape[1]
    return StoredWeight(Matrix(ScaledCodes("fp8", columns), (codes, scales), None, columns), weight.dtype)


def int4(weight: Tensor) -> StoredWeight:
    """With a scale for 128 inputs, or for 32."""
    outputs, columns = weight.shape
    group = 128 if columns % 128 == 0 else 32
    grouped = weight.float().view(outputs, -1, group)
    scales = grouped.abs().amax(2).clamp(min=LEAST) / 7
    codes = ((grouped / scales[..., None]).round() + 8).to(torch.uint8).view(outputs, columns)
    packed = codes[:, ::2] | codes[:, 1::2] << 4
    return StoredWeight(Matrix(ScaledCodes("int4", group), (packed, scales), None, columns), weight.dtype)


def blocks(name: str, outputs: int, columns: int, device: torch.device) -> Matrix:
    from tests.device.random_weights import stored_matrix  # noqa: PLC0415 - as the stand-ins of `lab`

    matrix = stored_matrix(name, outputs, columns)
    return replace(matrix, blocks=tuple(block.to(device) for block in matrix.blocks), bias=None)
