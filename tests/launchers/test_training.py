"""Training under torchrun with gloo: one index for all ranks and all DataLoader workers, and one model."""

from __future__ import annotations

from collections import Counter

from launchers.journal import Journal
from launchers.launching import TORCHRUN, launch

SIZE = 2
LOADERS = {"spawn": 1, "fork": 2}


def test_the_index_is_built_once(journal: Journal) -> None:
    """However many ranks and workers ask, it is built once; all open it, and the ranks end with one trained model."""
    (done,) = launch((*TORCHRUN, f"--nproc-per-node={SIZE}", "-m", "launchers.training", str(journal.path)))
    assert done.returncode == 0, done.stderr
    worlds = sorted(entry["world"] for entry in journal.read("place"))
    assert [world[:5] for world in worlds] == [[rank, SIZE, rank, SIZE, 0] for rank in range(SIZE)]
    assert len({entry["scope"] for entry in journal.read("connected")}) == 1
    assert len(journal.read("builds")) == 1
    opened = journal.read("opens")
    openers = (None, *(worker for workers in LOADERS.values() for worker in range(workers)))
    assert Counter((entry["rank"], entry["worker"]) for entry in opened) == Counter(
        (rank, opener) for rank in range(SIZE) for opener in openers
    )
    assert len({entry["pid"] for entry in opened}) == len(opened)
    for method in LOADERS:
        first, *others = [entry for entry in journal.read("trained") if entry["method"] == method]
        assert len(others) == SIZE - 1
        assert all(other["weights"] == first["weights"] for other in others)
        for entry in (first, *others):
            assert sum(entry["losses"][-5:]) < 0.7 * sum(entry["losses"][:5])
