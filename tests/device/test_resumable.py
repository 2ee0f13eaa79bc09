"""Computations that stop and go on, and large operations in pieces."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention

from neuron.device import pieces
from neuron.device.resumable import Resumable

CPU = torch.device("cpu")


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture
def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)), nn.GELU())


def turns(computation: Resumable[Any]) -> int:
    count = 1
    while not computation.run(0.0):
        count += 1
    return count


@torch.inference_mode()
def test_a_computation_that_stops_everywhere_comes_to_the_same(layers):
    x = made(3, 8)
    computation = Resumable(lambda: layers(x), CPU)
    assert turns(computation) > 5
    assert torch.equal(computation.result, layers(x))
    assert computation.run(0.0)


def test_with_time_enough_it_takes_one_turn(layers):
    assert turns(Resumable(lambda: layers(made(3, 8)), CPU)) > 1
    assert Resumable(lambda: layers(made(3, 8)), CPU).run(60.0)


def test_two_threads_never_compute_at_once(layers):
    """What a computation sees of the thread that drives it changes in its turns only."""
    turn, seen = 0, []

    def work() -> None:
        for _ in range(20):
            seen.append(turn)
            torch.zeros(1) + 1

    computation = Resumable(work, CPU)
    while not computation.run(0.0):
        turn += 1
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


def test_what_it_raises_is_raised_where_it_is_run():
    def work() -> None:
        torch.zeros(2) + torch.zeros(3)

    computation = Resumable(work, CPU)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="size"):
            turns(computation)


@pytest.mark.parametrize("begins", [True, False])
def test_dropping_one_ends_its_thread_and_frees_what_it_holds(layers, begins):
    before = threading.active_count()
    held = [made(3, 8)]
    kept = weakref.ref(held[0])

    def work(x: Tensor) -> Tensor:
        try:
            return layers(x)
        except Exception:  # noqa: BLE001 - as code of classes may
            return x

    computation = Resumable(partial(work, held.pop()), CPU)
    if begins:
        assert not computation.run(0.0)
    assert kept() is not None
    del computation
    assert kept() is None
    for thread in threading.enumerate():
        if thread.name == "resumable":
            thread.join(10)
    assert threading.active_count() == before


MASK = made(2, 1, 9, 9) > 0.3
CALLS: list[tuple[str, Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = [
    ("rows", linear, (made(4, 5, 8), made(7, 8), made(7)), {}),
    ("rows of a slice", linear, (made(9, 16)[:, ::2], made(7, 8)), {}),
    ("matrices", torch.matmul, (made(2, 3, 9, 8), made(2, 3, 8, 5)), {}),
    ("matrices for all", torch.matmul, (made(9, 8), made(3, 8, 5)), {}),
    ("a method", Tensor.matmul, (made(3, 9, 8), made(8, 5)), {}),
    ("patches", conv2d, (made(4, 3, 8, 8), made(5, 3, 4, 4), made(5)), {"stride": 4}),
    ("attention", scaled_dot_product_attention, (made(2, 3, 9, 8),) * 3, {}),
    ("masked", scaled_dot_product_attention, (made(2, 3, 9, 8),) * 3, {"attn_mask": MASK}),
    ("masked alike", scaled_dot_product_attention, (made(2, 3, 9, 8),) * 3, {"attn_mask": MASK[0, 0]}),
    ("a row's mask", scaled_dot_product_attention, (made(2, 3, 9, 8),) * 3, {"attn_mask": MASK[:, :, :1]}),
    ("causal", scaled_dot_product_attention, (made(2, 3, 9, 8),) * 3, {"is_causal": True, "scale": 0.2}),
    (
        "grouped",
        scaled_dot_product_attention,
        (made(1, 4, 9, 8), made(1, 2, 9, 8), made(1, 2, 9, 8)),
        {"enable_gqa": True},
    ),
]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST", 300)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("function", "args", "kwargs"), [call[1:] for call in CALLS], ids=[c[0] for c in CALLS]
)
def test_pieces_come_to_what_one_call_returns(function, args, kwargs):
    pauses: list[int] = []
    found = pieces.in_pieces(function, args, kwargs, lambda: pauses.append(1))
    assert pauses
    assert torch.allclose(found, function(*args, **kwargs), atol=1e-5)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (linear, (made(1, 8), made(70, 8))),
        (torch.matmul, (made(8), made(8, 50))),
        (scaled_dot_product_attention, (made(3, 90, 8),) * 3),
    ],
)
def test_other_calls_are_left_as_they_are(function, args):
    assert torch.equal(pieces.in_pieces(function, args, {}, pytest.fail), function(*args))
