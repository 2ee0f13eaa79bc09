from __future__ import annotations

import numpy as np
import pytest
import torch

from neuron.models.formats.block_types import BLOCK_TYPES, GGUF_TYPES
from neuron.models.formats.dequantized import dequantized_product
from neuron.models.matrix import Groups, Matrix

gguf = pytest.importorskip("gguf")

SEEDS = range(3)
ALL_BYTES = 256


def random_rows(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bytes as rows of blocks, (…, row bytes)."""
    random = np.random.default_rng(seed)
    return random.integers(0, ALL_BYTES, (*shape[:-1], BLOCK_TYPES[name].row_bytes(shape[-1])), np.uint8)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_names_numbers_and_sizes_are_gguf_s(name):
    block_type = BLOCK_TYPES[name]
    number = gguf.GGMLQuantizationType[name.upper()]
    assert block_type.gguf_type == number
    assert GGUF_TYPES[number] is block_type
    assert (block_type.elements, block_type.size) == gguf.GGML_QUANT_SIZES[number]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_dequantizes_bit_for_bit_like_gguf(name, seed):
    rows = random_rows(name, (2, 17, 768), seed)
    with np.errstate(all="ignore"):  # random scales may be NaN, infinite, or overflow
        expected = gguf.dequantize(rows, gguf.GGMLQuantizationType[name.upper()])
    found = BLOCK_TYPES[name].dequantize([torch.from_numpy(rows)], torch.float32).numpy()
    assert found.shape == (2, 17, 768)
    is_number = ~np.isnan(expected)
    assert is_number.mean() > 0.5
    np.testing.assert_array_equal(found.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])
    assert np.isnan(found[~is_number]).all()


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_all_scales_of_a_byte_are_gguf_s(name):
    block_type = BLOCK_TYPES[name]
    rows = np.full((ALL_BYTES, block_type.size), 0x71, np.uint8)
    rows[:, 0] = np.arange(ALL_BYTES)
    with np.errstate(over="ignore"):
        expected = gguf.dequantize(rows, gguf.GGMLQuantizationType[name.upper()])
    found = block_type.dequantize([torch.from_numpy(rows)], torch.float32).numpy()
    np.testing.assert_array_equal(found, expected)


def test_rows_may_be_a_view_of_others():
    rows = torch.from_numpy(random_rows("q4_k", (6, 512)))
    whole = BLOCK_TYPES["q4_k"].dequantize([rows], torch.bfloat16)
    assert torch.equal(BLOCK_TYPES["q4_k"].dequantize([rows[1::2]], torch.bfloat16), whole[1::2])


def test_cut_blocks_are_refused():
    with pytest.raises(ValueError, match="a row of 33 bytes is no multiple of q8_0's 34"):
        BLOCK_TYPES["q8_0"].dequantize([torch.zeros(2, 33, dtype=torch.uint8)], torch.float32)
    with pytest.raises(ValueError, match="a row of 300 is no multiple of q4_k's 256"):
        BLOCK_TYPES["q4_k"].row_bytes(300)


@pytest.mark.parametrize("name", [name for name in BLOCK_TYPES if BLOCK_TYPES[name].elements > 1])
def test_products_are_near_those_of_plain_numbers(name):
    rows = random_rows(name, (3, 20, 512)) % 64  # float16 scales are below 2 then
    if name == "mxfp4":
        rows.reshape(3, 20, -1, 17)[..., 0] += 96
    matrices = Matrix(BLOCK_TYPES[name], (torch.from_numpy(rows),), None, 512)
    x = torch.randn(9, 512, generator=torch.Generator().manual_seed(3))
    groups = Groups(torch.tensor([0] * 4 + [2] * 5), 3)
    for expert, part in ((0, slice(4)), (2, slice(4, 9))):
        wanted = dequantized_product(matrices[expert])(x[part])
        found = matrices[expert].format.product(matrices[expert])(x[part])
        assert (found - wanted).std() < 0.02 * wanted.std()
        if grouped := matrices.format.grouped_product(matrices):
            torch.testing.assert_close(grouped(x, groups)[part], found)
