from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from neuron.models import huge_pages


def flags_at(address: int) -> list[str]:
    """The kernel's flags of the memory that an address is in."""
    for part in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE
    ):
        if (ends := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", part)) is None:
            continue
        start, end = (int(number, 16) for number in ends.groups())
        if start <= address < end and (found := re.search(r"^VmFlags: (.*)$", part, re.MULTILINE)):
            return found[1].split()
    return []


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs huge pages")
def test_large_tensors_ask_for_huge_pages():
    tensor = huge_pages.empty((3, 1 << 20), torch.float32)
    assert tensor.shape == (3, 1 << 20)
    assert "hg" in flags_at(tensor.data_ptr())
    assert tensor.fill_(2).sum() == 6 << 20


def test_small_tensors_and_other_systems_have_plain_memory(monkeypatch: pytest.MonkeyPatch):
    assert huge_pages.empty((2, 3), torch.uint8).shape == (2, 3)
    monkeypatch.setattr(huge_pages, "_ADVICE", None)
    assert huge_pages.empty((3, 1 << 20), torch.float32).shape == (3, 1 << 20)
