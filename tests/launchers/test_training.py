"""Training under torchrun with gloo: one index for all ranks and all DataLoader workers, and one model."""

from __future__ import annotations

from itertools import product

import pytest

from launchers.journal import Journal
from launchers.launching import TORCHRUN, launch


@pytest.mark.parametrize(("size", "workers", "method"), [(2, 1, "spawn"), (4, 2, "fork")])
def test_the_index_is_built_once(journal: Journal, size: int, workers: int, method: str) -> None:
    """However many ranks and workers ask, it is built once; all open it, and the ranks end with one trained model."""
    program = ("launchers.training", str(journal.path), str(workers), method)
    (done,) = launch((*TORCHRUN, f"--nproc-per-node={size}", "-m", *program))
    assert done.returncode == 0, done.stderr
    worlds = sorted(entry["world"] for entry in journal.read("place"))
    assert [world[:5] for world in worlds] == [[rank, size, rank, size, 0] for rank in range(size)]
    assert len({entry["scope"] for entry in journal.read("connected")}) == 1
    assert len(journal.read("builds")) == 1
    opened = journal.read("opens")
    assert {(entry["rank"], entry["worker"]) for entry in opened} == {*product(range(size), (None, *range(workers)))}
    assert len({entry["pid"] for entry in opened}) == len(opened) == size * (1 + workers)
    first, *others = journal.read("trained")
    assert len(others) == size - 1
    assert all(other["weights"] == first["weights"] for other in others)
    for entry in (first, *others):
        assert sum(entry["losses"][-5:]) < 0.7 * sum(entry["losses"][:5])
