"""How does a reader-writer lock serve 8 processes, nine reads for each write, and does either side starve?

Starvation shows only where a process is always one or the other, so it has a panel of its own: six readers and two
writers, and the turns of the unluckiest of each as a share of an equal share.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Start, clock, fairness, together
from peers import FILELOCK, Peer, reader_writer_locks
from report import Target

COUNT, READERS = 8, 6
WRITES = 0.1
MIXED = "8 processes, 90 % reads and 10 % writes"
APART = "6 readers and 2 writers: turns of the unluckiest, as a share of an eighth of all turns"
TARGETS = (
    Target(MIXED, "per second", 1, most=False, than=FILELOCK),
    Target(APART, "least reader", 0.5, most=False),
    Target(APART, "least writer", 0.5, most=False),
)


def measure(effort: Effort) -> list[Panel]:
    """Both panels, for each peer and repeat."""
    mixed = Panel(MIXED, "per second", FILELOCK, more_is_better=True)
    apart = Panel(APART, "per second", FILELOCK, more_is_better=True)
    seconds = effort.seconds(0.8)
    for _ in range(effort.repeats(3)):
        for peer in reader_writer_locks():
            turns = _turns(peer, effort, seconds, [WRITES] * COUNT)
            mixed.add(peer.name, per_second=sum(turns) / seconds, fairness=fairness(turns))
            turns = _turns(peer, effort, seconds, [0.0] * READERS + [1.0] * (COUNT - READERS))
            equal = sum(turns) / COUNT
            apart.add(
                peer.name,
                per_second=sum(turns) / seconds,
                least_reader=min(turns[:READERS]) / equal,
                least_writer=min(turns[READERS:]) / equal,
            )
    return [mixed, apart]


def _turns(peer: Peer, effort: Effort, seconds: float, writes: list[float]) -> list[int]:
    return together(len(writes), _use, peer.attach, peer.prepare(effort.fresh()), seconds, writes)


def _use(
    index: int, start: Start, attach: Callable[[Any], Any], shared: Any, seconds: float, writes: list[float]
) -> int:
    sides = attach(shared)
    draw = random.Random(index).random
    mine = writes[index]
    with sides.write():
        pass
    window = start(seconds)
    turns = 0
    while window.open():
        asked = clock()
        with sides.write() if draw() < mine else sides.read():
            pass
        turns += window.counts(asked)
    return turns
