from __future__ import annotations

from neuron.engine.snapshots import Snapshots


def kept(snapshots: Snapshots, name: bytes) -> int:
    row = snapshots.take()
    assert row is not None
    snapshots.add(name, row)
    snapshots.check()
    return row


def test_the_longest_prefix_with_a_snapshot_is_found():
    snapshots = Snapshots(3)
    rows = {name: kept(snapshots, name) for name in (b"a", b"c")}
    assert snapshots.find([b"a", b"b", b"c", b"d"]) == (3, rows[b"c"])
    assert snapshots.find([b"a", b"b"]) == (1, rows[b"a"])
    assert snapshots.find([b"b"]) == (0, None)


def test_the_snapshot_used_last_stays_longest():
    snapshots = Snapshots(2)
    kept(snapshots, b"a")
    kept(snapshots, b"b")
    snapshots.find([b"a"])
    kept(snapshots, b"c")
    assert snapshots.find([b"b"]) == (0, None)
    assert snapshots.find([b"a"])[0] == 1


def test_rows_come_back():
    snapshots = Snapshots(2)
    first, second = snapshots.take(), snapshots.take()
    assert first is not None
    assert second is not None
    assert snapshots.take() is None  # both are being written
    snapshots.add(b"a", first)
    snapshots.add(b"a", second)  # the same prefix, computed twice at once
    snapshots.check()
    assert kept(snapshots, b"b") == second
    snapshots.drop(b"a")
    snapshots.drop(b"a")
    snapshots.check()
    assert snapshots.find([b"a", b"b"])[0] == 2
    snapshots.clear()
    assert snapshots.find([b"a", b"b"]) == (0, None)
    row = snapshots.take()
    assert row is not None
    snapshots.release(row)
    snapshots.check()
