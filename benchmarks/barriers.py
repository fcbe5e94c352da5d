"""The barriers that are measured beside ours, all with ``wait()``; MPI's is measured by ranks, see mpi_ranks.py."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import time
from typing import Any

import limit
from measure import Effort
from peers import FILELOCK, MULTIPROCESSING, SHM, Peer, beside, filelock_lock, missing
from same_host import present, scope

import interlock

YIELDS, SLEEPS = "limit: futex, 50 yields, then sleep", "limit: futex, sleeps at once"
POLLED = "streaming's algorithm"
MPI = "MPI_Barrier"
LIMIT_S = 60.0
_TICK_S = 0.007  # streaming's nap between two looks
_RANKS = os.path.join(os.path.dirname(__file__), "mpi_ranks.py")


class Polled:
    """Parties are counted in and out in shared memory, under a file lock, with naps between looks at a flag.

    The first of a round waits until all of the last one are out; the last one to come opens the gate. So mosaicml-
    streaming describes its barrier; who is killed leaves the others waiting for ever.
    """

    def __init__(self, numbers: memoryview, path: str, parties: int) -> None:
        self._numbers = numbers  # in, out, whether the gate is open
        self._lock = filelock_lock(path)
        self._parties = parties
        with self._lock:
            if not any(numbers):
                numbers[1] = parties

    def wait(self) -> None:
        numbers, parties = self._numbers, self._parties
        self._lock.acquire()
        if numbers[0] == 0:
            self._lock.release()
            while numbers[1] != parties:
                time.sleep(_TICK_S)
            self._lock.acquire()
            numbers[2] = 0
        numbers[0] += 1
        if numbers[0] == parties:
            numbers[0], numbers[1], numbers[2] = 0, 0, 1
        self._lock.release()
        while not numbers[2]:
            time.sleep(_TICK_S)
        with self._lock:
            numbers[1] += 1


def barriers(parties: int) -> list[Peer]:
    """Every barrier of so many parties, MPI's excepted."""
    context = multiprocessing.get_context("fork")
    polled = Peer(
        FILELOCK,
        lambda directory: (mmap.mmap(-1, mmap.PAGESIZE), beside(directory)),
        lambda made: Polled(memoryview(made[0]).cast("i")[:3], made[1], parties),
    )
    known = present(
        Peer(SHM, scope, lambda url: interlock.connect(url).barrier("bench", parties)),
        _limited(YIELDS, parties, 50),
        _limited(SLEEPS, parties, 0),
        Peer(MULTIPROCESSING, lambda directory: context.Barrier(parties), lambda barrier: barrier),
        polled,
    )
    return [peer._replace(name=POLLED) if peer.name == FILELOCK else peer for peer in known]


def _limited(name: str, parties: int, yields: int) -> Peer:
    return Peer(name, lambda directory: limit.memory(), lambda memory: limit.module().Barrier(memory, parties, yields))


def ranks(count: int, rounds: int, late_s: float, effort: Effort) -> dict[str, float] | None:
    """What as many MPI ranks found: seconds per round, and CPU seconds of one that waits `late_s` for another; None
    without Open MPI or mpi4py."""
    launcher = os.path.join(os.path.dirname(sys.executable), "prterun")
    if "mpi4py" in missing() or not os.path.exists(launcher):
        return None
    command = [launcher, "--personality", "ompi", "--allow-run-as-root", "--oversubscribe", "-n", str(count)]
    libraries = os.pathsep.join(filter(None, (os.path.join(sys.prefix, "lib"), os.environ.get("LD_LIBRARY_PATH"))))
    answer = subprocess.run(
        [*command, sys.executable, _RANKS, str(rounds), str(late_s)],
        env=os.environ | {"MPI4PY_MPIABI": "openmpi", "LD_LIBRARY_PATH": libraries, "TMPDIR": effort.fresh()},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if answer.returncode:
        return None
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
