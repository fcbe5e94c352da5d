"""What does a lock cost that nobody else wants? Acquire and release, in microseconds."""

from __future__ import annotations

from typing import Any

from measure import Effort, Panel, each_us, times
from peers import FASTENERS, FILELOCK, PORTALOCKER, locks
from report import Target

TITLE = "one process, nobody else wants the lock"
TARGETS = (
    Target(TITLE, "explicit us", 10),
    Target(TITLE, "explicit us", 6, than=FILELOCK),
    Target(TITLE, "explicit us", 1, than=PORTALOCKER),
    Target(TITLE, "explicit us", 1, than=FASTENERS),
)


def measure(effort: Effort) -> list[Panel]:
    """Both spellings of every lock."""
    panel = Panel(TITLE, "explicit us", FILELOCK, more_is_better=False)
    attached = [(peer.name, peer.attach(peer.prepare(effort.fresh()))) for peer in locks()]
    for _ in range(effort.repeats(7)):
        for name, lock in attached:
            explicit, block = loops(lock)
            panel.add(
                name, explicit_us=each_us(explicit, effort.seconds(0.06)), with_us=each_us(block, effort.seconds(0.06))
            )
    return [panel]


def loops(lock: Any) -> tuple[Any, Any]:
    """Both spellings: loops that take the number of turns."""
    acquire, release = lock.acquire, lock.release

    def explicit(count: int) -> None:
        for _ in times(count):
            acquire()
            release()

    def block(count: int) -> None:
        for _ in times(count):
            with lock:
                pass

    return explicit, block
