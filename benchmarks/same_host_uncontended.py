"""What does an object in shared memory cost that nobody else wants? Acquire and release, in nanoseconds."""

from __future__ import annotations

from typing import Any

from measure import Effort, Panel, each_us
from peers import FILELOCK, MULTIPROCESSING, SHM, Peer
from report import Target
from same_host import FUTEX, locks, reader_writer_locks, semaphores
from uncontended import loops

LOCK, SEMAPHORE = "a lock in one process", "a semaphore in one process"
READ, WRITE = "a reader-writer lock in one process, to read", "a reader-writer lock in one process, to write"
TARGETS = (
    *(Target(title, "explicit ns", 45, ours=SHM) for title in (LOCK, SEMAPHORE, READ, WRITE)),
    *(Target(title, "with ns", 70, ours=SHM) for title in (LOCK, SEMAPHORE, READ, WRITE)),
    Target(LOCK, "explicit ns", 1 / 1.45, than=FUTEX, ours=SHM),
    Target(LOCK, "with ns", 1 / 1.23, than=FUTEX, ours=SHM),
    Target(LOCK, "with ns", 2, than=MULTIPROCESSING, ours=SHM),
    Target(LOCK, "with ns", 800, than=FILELOCK, ours=SHM),
    Target(SEMAPHORE, "with ns", 2, than=MULTIPROCESSING, ours=SHM),
)


def measure(effort: Effort) -> list[Panel]:
    """Both spellings of every object."""
    sides = reader_writer_locks()
    return [
        _panel(LOCK, MULTIPROCESSING, _attached(locks(), effort), effort),
        _panel(SEMAPHORE, MULTIPROCESSING, _attached(semaphores(), effort), effort),
        _panel(READ, FILELOCK, [(name, pair.read) for name, pair in _attached(sides, effort)], effort),
        _panel(WRITE, FILELOCK, [(name, pair.write) for name, pair in _attached(sides, effort)], effort),
    ]


def _attached(peers: list[Peer], effort: Effort) -> list[tuple[str, Any]]:
    return [(peer.name, peer.attach(peer.prepare(effort.fresh()))) for peer in peers]


def _panel(title: str, reference: str, attached: list[tuple[str, Any]], effort: Effort) -> Panel:
    panel = Panel(title, "with ns", reference, more_is_better=False)
    for _ in range(effort.repeats(9)):
        for name, lock in attached:
            explicit, block = (each_us(loop, effort.seconds(0.06)) * 1e3 for loop in loops(lock))
            panel.add(name, explicit_ns=explicit, with_ns=block)
    return panel
