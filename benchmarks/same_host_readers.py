"""How does a reader-writer lock in shared memory serve 8 processes, and does either side starve?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Start, clock, fairness, together
from peers import FILELOCK, SHM, Peer
from report import Target
from same_host import reader_writer_locks

COUNT, READERS = 8, 6
LOT = 20  # turns between two looks at the clock
MIXED = "8 processes in shared memory, 90 % reads and 10 % writes"
APART = "6 readers and 2 writers in shared memory: turns of the unluckiest of each"
TARGETS = (
    Target(MIXED, "per second", 4_000_000, most=False, ours=SHM),
    Target(MIXED, "per second", 1, most=False, than=FILELOCK, ours=SHM),
    Target(APART, "reader per second", 100, most=False, ours=SHM),
    Target(APART, "writer per second", 100, most=False, ours=SHM),
)


def measure(effort: Effort) -> list[Panel]:
    """Both panels, for each peer and repeat."""
    mixed = Panel(MIXED, "per second", FILELOCK, more_is_better=True)
    apart = Panel(APART, "per second", FILELOCK, more_is_better=True)
    seconds = effort.seconds(0.8)
    for _ in range(effort.repeats(5)):
        for peer in reader_writer_locks():
            turns = _turns(peer, effort, seconds, [LOT // 10] * COUNT)
            mixed.add(peer.name, per_second=sum(turns) / seconds, fairness=fairness(turns))
            turns = _turns(peer, effort, seconds, [0] * READERS + [LOT] * (COUNT - READERS))
            apart.add(
                peer.name,
                per_second=sum(turns) / seconds,
                reader_per_second=min(turns[:READERS]) / seconds,
                writer_per_second=min(turns[READERS:]) / seconds,
            )
    return [mixed, apart]


def _turns(peer: Peer, effort: Effort, seconds: float, writes: list[int]) -> list[int]:
    return together(COUNT, _use, peer.attach, peer.prepare(effort.fresh()), seconds, writes)


def _use(index: int, start: Start, attach: Callable[[Any], Any], shared: Any, seconds: float, writes: list[int]) -> int:
    """Turns taken, of which so many in each lot were writes."""
    pair = attach(shared)
    with pair.write:
        pass
    with pair.read:
        pass
    sides = [pair.write] * writes[index] + [pair.read] * (LOT - writes[index])
    random.Random(index).shuffle(sides)
    lot = [(side.acquire, side.release) for side in sides]
    window = start(seconds)
    turns = 0
    while window.open():
        asked = clock()
        for acquire, release in lot:
            acquire()
            release()
        turns += LOT * window.counts(asked)
    return turns
