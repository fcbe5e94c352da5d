"""The holder of a lock in shared memory is killed with SIGKILL: how long until the waiter has the lock?"""

from __future__ import annotations

from measure import Effort, Panel
from peers import FILELOCK, SHM
from recovery import takeover
from report import Target
from same_host import shared_locks

TITLE = "in shared memory, from SIGKILL of the holder to the waiter holding it"
TARGETS = (
    Target(TITLE, "ms", 2, ours=SHM),
    Target(TITLE, "worst ms", 100, ours=SHM),
)


def measure(effort: Effort) -> list[Panel]:
    """Some kills for each peer, in turn; one that hangs is not asked again."""
    panel = Panel(TITLE, "ms", FILELOCK, more_is_better=False)
    taken: dict[str, list[float]] = {}
    for _ in range(effort.repeats(7)):
        for peer in shared_locks():
            if taken.get(peer.name, [0.0])[-1] != float("inf"):
                taken.setdefault(peer.name, []).append(takeover(peer, effort))
    for name, seconds in taken.items():
        for each in seconds:
            panel.add(name, ms=each * 1e3, worst_ms=max(seconds) * 1e3)
    return [panel]
