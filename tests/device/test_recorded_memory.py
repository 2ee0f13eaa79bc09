"""Tensors of recorded steps share memory when they do not live at the same time."""

from __future__ import annotations

import torch

from neuron.device.recorded_memory import RecordedMemory


def test_a_tensor_that_is_gone_leaves_its_memory_to_the_next():
    memory = RecordedMemory()
    first = memory.like(torch.empty(30, 10))
    part = first[3:5].flatten()
    address = first.data_ptr()
    assert memory.like(torch.empty(300)).data_ptr() != address
    del first
    assert memory.like(torch.empty(300)).data_ptr() != address  # for a part of it is there
    del part
    assert memory.like(torch.empty(29, 10, dtype=torch.float32)).data_ptr() == address


def test_it_has_the_kind_of_what_it_is_like():
    like = torch.empty(4, 6, dtype=torch.int64).t()
    made = RecordedMemory().like(like)
    assert (made.shape, made.stride(), made.dtype) == (like.shape, like.stride(), like.dtype)
    assert RecordedMemory().like(torch.empty(0, 3)).shape == (0, 3)


def test_what_is_lent_does_not_keep_memory():
    memory = RecordedMemory()
    made = memory.like(torch.empty(4, 6))
    made.copy_(torch.arange(24).view(4, 6))
    part = memory.lend(made[1:, 2:])
    assert torch.equal(part, made[1:, 2:])
    del made
    assert memory.like(torch.empty(4, 6)).data_ptr() + 8 * 4 == part.data_ptr()
    own = torch.empty(3)
    assert memory.lend(own) is own


def test_sizes_of_all_batches_share_blocks():
    memory = RecordedMemory()
    for rows in range(1, 33):
        memory.like(torch.empty(rows, 1000))
    assert memory.num_bytes < 2 * 2 * 32 * 4000
