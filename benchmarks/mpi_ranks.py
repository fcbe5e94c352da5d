"""Run by mpirun: what MPI_Barrier costs its ranks. Arguments: rounds, and how late the first rank comes at the end."""

from __future__ import annotations

import json
import sys
import time

from mpi4py import MPI


def main() -> None:
    """The first rank prints seconds per round, and the mean CPU seconds of those that waited for it."""
    rounds, late_s = int(sys.argv[1]), float(sys.argv[2])
    world = MPI.COMM_WORLD
    world.Barrier()
    started = time.perf_counter()
    for _ in range(rounds):
        world.Barrier()
    taken = time.perf_counter() - started
    if late_s and world.rank == 0:
        time.sleep(late_s)
    before = time.process_time()
    world.Barrier()
    burnt = world.gather(time.process_time() - before)
    if world.rank == 0:
        print(json.dumps({"round": taken / rounds, "cpu": sum(burnt[1:]) / len(burnt[1:])}))


if __name__ == "__main__":
    main()
