"""How long does it take in shared memory from a release until a waiter on another core holds the lock?

Each of the two has a core of its own: on one core the figure would be how soon the releaser goes to sleep.
"""

from __future__ import annotations

import os
from statistics import median
from typing import Any

from handoff import handoffs
from measure import Effort, Panel
from peers import FILELOCK, MULTIPROCESSING, SHM, Peer
from report import Target
from same_host import shared_locks

TITLE = "in shared memory, from release to the waiter holding it"
TARGETS = (
    Target(TITLE, "median us", 40, ours=SHM),
    Target(TITLE, "median us", 1, than=MULTIPROCESSING, ours=SHM),
    Target(TITLE, "median us", 200, than=FILELOCK, ours=SHM),
)


def measure(effort: Effort) -> list[Panel]:
    """The median of some hand-offs between two processes, for each peer and repeat."""
    panel = Panel(TITLE, "median us", FILELOCK, more_is_better=False)
    allowed = os.sched_getaffinity(0)
    try:
        for _ in range(effort.repeats(5)):
            for peer in shared_locks():
                taken = handoffs(_apart(peer, sorted(allowed)), effort, rounds=5 if effort.quick else 11)
                panel.add(peer.name, median_us=median(taken) * 1e6, worst_us=max(taken) * 1e6)
    finally:
        os.sched_setaffinity(0, allowed)
    return [panel]


def _apart(peer: Peer, cores: list[int]) -> Peer:
    """The peer, used on the first core by this process and on the last one by others."""
    here = os.getpid()

    def attach(shared: Any) -> Any:
        os.sched_setaffinity(0, {cores[0] if os.getpid() == here else cores[-1]})
        return peer.attach(shared)

    return peer._replace(attach=attach)
