"""Products of blocks and of scaled codes, on every instruction set of this CPU, against float64.

Inputs of blocks are whole numbers up to 127 times a power of two in every 32: rounding to codes keeps them as
they are, and the product is held to what float32 sums allow.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ext import matmul
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.scaled_codes import ScaledCodes

native = matmul.load()
if native is None:
    pytest.skip("ext.matmul is not built", allow_module_level=True)

SETS = native.instruction_sets()
NUMBERS = {name: number for number, (name, *_) in enumerate(native.formats())}
BLOCKS = [name for name in NUMBERS if name in BLOCK_TYPES and BLOCK_TYPES[name].elements > 1]
# Where a block's float16 numbers stand; the other scales are bytes.
HALVES = {"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "tq2_0": (64,), "mxfp4": (), "nvfp4": ()}
HALVES |= dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2))
SCALED = {"int4": 4, "int8": 8, "fp8": 8, "nf4": 4, "fp4": 4}
SCALED_CASES = [*((name, False) for name in SCALED), ("int4", True), ("int8", True)]
SIZES = (64, 1, 32), (192, 7, 64), (256, 13, 128), (96, 5, 96), (300, 9, 300), (44, 3, 22)
NEAR = 1e-6  # of the sum of magnitudes


def multiply(
    chosen: str, name: str, x: Tensor, parts: list[Tensor], group: int = 0, ends: Tensor | None = None
):
    outs, matrices = parts[0].shape[-2], len(parts[0]) if parts[0].dim() > 2 else 1
    y = torch.full((len(x) * outs + 8,), torch.nan)
    where = x.data_ptr(), len(x), x.shape[1]
    addresses = *(part.data_ptr() for part in parts), 0, 0
    stored = *addresses[:3], outs, group, 0
    rest = y.data_ptr(), outs, 2, 0 if ends is None else ends.data_ptr(), matrices
    native.multiply(SETS.index(chosen), NUMBERS[name], *where, *stored, *rest)
    assert y[len(x) * outs :].isnan().all()
    return y[: len(x) * outs].view(len(x), outs)


def random_blocks(name: str, *shape: int) -> Tensor:
    """Random bytes, but scales that are numbers."""
    kind = BLOCK_TYPES[name]
    blocks = torch.randint(256, (*shape[:-1], shape[-1] // kind.elements, kind.size), dtype=torch.uint8)
    for at in HALVES.get(name, (0,)):
        halves = (torch.rand(*blocks.shape[:-1], 1) - 0.5).half()
        blocks[..., at : at + 2] = halves.view(torch.uint8)
    if name == "mxfp4":
        blocks[..., 0] = blocks[..., 0] % 8 + 120
    return blocks.flatten(-2)


def whole_inputs(rows: int, ins: int) -> Tensor:
    codes = torch.randint(-127, 128, (rows, ins // 32, 32)).float()
    codes[..., 0] = 127
    return (codes * 2.0 ** torch.randint(-3, 4, (rows, ins // 32, 1))).flatten(1)


def assert_near(found: Tensor, x: Tensor, weights: Tensor):
    x, weights = x.double(), weights.double()
    assert ((found - x @ weights.T).abs() <= NEAR * (x.abs() @ weights.abs().T)).all()


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_multiplied_as_what_they_stand_for(name: str, chosen: str):
    elements = BLOCK_TYPES[name].elements
    for ins, outs in (elements, 1), (3 * elements, 7), (768 + elements, 37):
        rows = random_blocks(name, outs, ins)
        weights = BLOCK_TYPES[name].dequantize([rows], torch.float32)
        for num_rows in (1, 2, 3, 4, 5, 6, 7, 65):
            x = whole_inputs(num_rows, ins)
            assert_near(multiply(chosen, name, x, [rows]), x, weights)


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("name", BLOCKS)
def test_rows_are_unpacked_to_the_numbers_that_they_stand_for(name: str, chosen: str):
    kind = BLOCK_TYPES[name]
    width = 5 * kind.elements
    blocks, rows = random_blocks(name, 9, width), torch.tensor([8, 0, 3, 3])
    wanted = kind.dequantize([blocks[rows]], torch.float32)
    for rounded, dtype in enumerate((torch.float32, torch.bfloat16)):
        out = torch.full((len(rows) * width + 8,), torch.nan)
        where = blocks.data_ptr(), rounded, rows.data_ptr(), out.data_ptr(), 2
        native.unpack_rows(SETS.index(chosen), NUMBERS[name], len(rows), width, *where)
        assert torch.equal(out[:-8].view_as(wanted), wanted.to(dtype).float())
        assert out[-8:].isnan().all()


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("name", BLOCKS)
def test_codes_at_their_limits_do_not_overflow(name: str, chosen: str):
    kind = BLOCK_TYPES[name]
    blocks = random_blocks(name, 4, 8, 256).view(4, 8, -1, kind.size)
    blocks[:] = blocks[:1]  # the same scales
    for rows, byte in zip(blocks, (0, 0xFF, 0x80, 0x7F), strict=True):
        rows[..., 4:64] = byte
    weights = kind.dequantize([blocks.flatten(2)], torch.float64)
    largest = weights.abs().amax((0, 2))
    for rows, exact in zip(blocks.flatten(2), weights, strict=True):
        for num_rows in (1, 2):
            x = torch.full((num_rows, 256), 127.0)
            wrong = multiply(chosen, name, x, [rows.contiguous()]) - x.double() @ exact.T
            assert (wrong.abs() <= NEAR * 256 * 127 * largest).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_many_rows_are_multiplied_like_few(name: str):
    rows, x = random_blocks(name, 20, 512), torch.randn(600, 512)
    torch.testing.assert_close(
        multiply(SETS[0], name, x, [rows])[[1, 299, 597]], multiply(SETS[0], name, x[[1, 299, 597]], [rows])
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_rounded_inputs_cost_a_hundredth(name: str):
    rows, x = random_blocks(name, 64, 512), torch.randn(8, 512)
    wanted = x @ BLOCK_TYPES[name].dequantize([rows], torch.float32).T
    assert (multiply(SETS[0], name, x, [rows]) - wanted).std() < 0.02 * wanted.std()


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("name", BLOCKS)
def test_experts_have_blocks_of_their_own(name: str, chosen: str):
    experts = random_blocks(name, 3, 9, 256)
    weights = BLOCK_TYPES[name].dequantize([experts], torch.float32)
    for first, end in (1, 5), (3, 21), (8, 17):
        ends, x = torch.tensor([first, first, end], dtype=torch.int32), whole_inputs(end, 256)
        found = multiply(chosen, name, x, [experts], ends=ends)
        assert_near(found[:first], x[:first], weights[0])
        assert_near(found[first:], x[first:], weights[2])


def random_codes(name: str, outs: int, ins: int, group: int, has_zeros: bool) -> list[Tensor]:
    codes = torch.randint(256, (outs, ins * SCALED[name] // 8), dtype=torch.uint8)
    if name == "fp8":
        codes[codes & 0x7F == 0x7F] = 0
    scales = torch.randn(outs, ins // group)
    zeros = torch.randint(1 << SCALED[name], scales.shape, dtype=torch.uint8)
    return [codes, scales, *([zeros] if has_zeros else [])]


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize(("name", "has_zeros"), SCALED_CASES)
def test_scaled_codes_are_multiplied_as_what_they_stand_for(name: str, has_zeros: bool, chosen: str):
    for ins, outs, group in (
        (64, 1, 32),
        (192, 7, 64),
        (256, 13, 128),
        (96, 5, 96),
        (300, 9, 300),
        (44, 3, 22),
    ):
        parts = random_codes(name, outs, ins, group, has_zeros)
        weights = ScaledCodes(name, group, has_zeros).dequantize(parts, torch.float32)
        for num_rows in (1, 2, 5, 33):
            x = torch.randn(num_rows, ins)
            assert_near(multiply(chosen, name, x, parts, group), x, weights)


@pytest.mark.parametrize("chosen", SETS)
def test_an_fp8_code_that_is_no_number_shows(chosen: str):
    parts = random_codes("fp8", 4, 64, 32, has_zeros=False)
    parts[0][1, 40] = 0xFF
    for num_rows in (1, 2):
        found = multiply(chosen, "fp8", torch.ones(num_rows, 64), parts, 32)
        assert found.isnan().all(0).tolist() == [False, True, False, False]


def test_experts_have_scales_of_their_own():
    ends, x = torch.tensor([1, 1, 5], dtype=torch.int32), torch.randn(5, 128)
    experts = [random_codes("int4", 9, 128, 32, has_zeros=True) for _ in range(3)]
    found = multiply(
        SETS[0], "int4", x, [torch.stack(parts) for parts in zip(*experts, strict=True)], 32, ends
    )
    weights = [ScaledCodes("int4", 32, has_zeros=True).dequantize(parts, torch.float32) for parts in experts]
    assert_near(found[:1], x[:1], weights[0])
    assert_near(found[1:], x[1:], weights[2])
