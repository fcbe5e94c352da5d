"""What `interlock.world` and a `Holder` say under real launchers; torchrun is in the tests of start-up and training."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from launchers.journal import Journal
from launchers.launching import MODULE, Done
from launchers.slurm import Slurm

PLACE = (*MODULE, "launchers.place")


def worlds(journal: Journal) -> list[list[Any]]:
    """The worlds that were told, by rank; a holder must agree with its world, and say nothing of it if it is alone."""
    told = journal.read("place")
    places = [entry["world"][:2] for entry in told]
    assert [entry["holder"] for entry in told] == [[None, None] if place == [0, 1] else place for place in places]
    return sorted(entry["world"] for entry in told)


@pytest.mark.parametrize("mpi", ["none", "pmi2"])
def test_srun_on_two_nodes(slurm: Slurm, journal: Journal, mpi: str) -> None:
    """Every task knows its node and how many tasks are there, with and without the variables of an MPI."""
    done = slurm.run("srun", "--nodes=2", "--ntasks=4", f"--mpi={mpi}", *PLACE, str(journal.path))
    assert done.returncode == 0, done.stderr
    job = journal.read()[0]["world"][-1]
    assert worlds(journal) == [
        [0, 4, 0, 3, 0, "slurm", job],
        [1, 4, 1, 3, 0, "slurm", job],
        [2, 4, 2, 3, 0, "slurm", job],
        [3, 4, 0, 1, 1, "slurm", job],
    ]


def test_a_batch_script_is_one_rank_and_its_step_are_many(slurm: Slurm, journal: Journal) -> None:
    """The script of a job with four tasks is alone; what it starts with srun is not."""
    place = shlex.join((*PLACE, str(journal.path)))
    job = slurm.sbatch(f"{place} && srun {place}", "--nodes=2", "--ntasks=4")
    assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    assert journal.read()[0]["world"] == [0, 1, 0, 1, 0, "slurm", job]
    assert [entry["world"][:2] for entry in sorted(journal.read()[1:], key=str)] == [[rank, 4] for rank in range(4)]


def test_an_array(slurm: Slurm, journal: Journal) -> None:
    """All tasks of an array belong to one job, each with its index."""
    job = slurm.sbatch(shlex.join((*PLACE, str(journal.path))), "--array=1-7:2")
    assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    assert worlds(journal) == [[0, 1, 0, 1, 0, "slurm", job]] * 4
    assert sorted(entry["job"] for entry in journal.read()) == [["slurm", job, n, 0, "interlock"] for n in (1, 3, 5, 7)]


@pytest.mark.parametrize("launcher", ["fork", "spawn"], indirect=True)
def test_multiprocessing_tells_no_ranks(launcher: Callable[..., Done], journal: Journal) -> None:
    """Forked and spawned processes are each alone, unless they say which rank they are."""
    assert launcher("place", str(journal.path)).returncode == 0
    assert worlds(journal) == [[0, 1, 0, 1, 0, None, None]] * 4
    assert sorted(entry["session"] for entry in journal.read()) == [[rank, 4, rank, 4] for rank in range(4)]


@pytest.mark.parametrize("launcher", ["Open MPI", "MPICH"], indirect=True)
def test_mpirun(launcher: Callable[..., Done], journal: Journal) -> None:
    """Without MPI being initialised, or even installed for Python, every rank knows its place."""
    done = launcher("place", str(journal.path))
    assert done.returncode == 0, done.stderr
    local_ranks = {entry["world"][2] for entry in journal.read()}
    assert [[*world[:2], *world[3:]] for world in worlds(journal)] == [[rank, 4, 4, 0, None, None] for rank in range(4)]
    assert local_ranks == {0, 1, 2, 3}  # Open MPI may number them in another order
