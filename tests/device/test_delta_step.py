"""The gated delta rule's step in C does what torch's operations do."""

from __future__ import annotations

import pytest
import torch

from ext import matmul
from neuron.device import delta_rule

pytestmark = pytest.mark.skipif(matmul.load() is None, reason="ext.matmul is not built")


@pytest.mark.parametrize("value_dim", [5, 16, 64, 100])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_a_step_in_c_is_torchs(key_heads: int, value_dim: int, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(value_dim)
    states = torch.randn(3, 4, 24, value_dim, generator=generator)
    # Queries, keys and values are parts of one tensor, as they come from a product.
    mixed = torch.randn(3, 2 * key_heads * 24 + 4 * value_dim, generator=generator)
    query, key = mixed[:, : 2 * key_heads * 24].view(3, -1, 24).chunk(2, 1)
    value = mixed[:, 2 * key_heads * 24 :].view(3, 4, value_dim)
    decay, strength = -torch.rand(3, 4, generator=generator), torch.rand(3, 4, generator=generator)
    wanted_states = states.clone()
    wanted = delta_rule._read_token(wanted_states, query, key, value, decay, strength)
    native = matmul.load()
    assert native is not None
    for number in range(len(native.instruction_sets())):
        monkeypatch.setattr(matmul, "instruction_set", lambda number=number: number)
        found_states = states.clone()
        found = delta_rule._step(found_states, query, key, value, decay, strength)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found_states, wanted_states, rtol=1e-5, atol=1e-5)
