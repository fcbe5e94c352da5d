"""How many arrays of 100 B do 16 processes get a second, together, when they all read one cache?

New is an entry that the process has never seen: each reads all of them once, from a common start to when the last is
done. Again is one that it has read before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import numpy as np
from caches import DISKCACHE, Values, all_caches
from measure import Effort, Panel, Start, clock, together
from peers import Peer
from report import Target

COUNT, KEYS, BATCH = 16, 300, 20
TITLE = f"{COUNT} processes get arrays of 100 B, per second"
TARGETS = (
    Target(TITLE, "again", 2, most=False, than=DISKCACHE),
    Target(TITLE, "new", 1, most=False, than=DISKCACHE),
)


def measure(effort: Effort) -> list[Panel]:
    """Entries are written once; readers are new processes in every repeat."""
    panel = Panel(TITLE, "again", DISKCACHE, more_is_better=True)
    keys = [f"key {number}" for number in range(KEYS)]
    written = [(peer, _written(peer, effort, keys)) for peer in all_caches() if not peer.name.endswith("mapped")]
    seconds = effort.seconds(0.4)
    for _ in range(effort.repeats(4)):
        for peer, shared in written:
            results = together(COUNT, _read, peer.attach, shared, keys, seconds)
            slowest = max(taken for taken, _ in results)
            panel.add(peer.name, new=COUNT * KEYS / slowest, again=sum(counted for _, counted in results) / seconds)
    return [panel]


def _written(peer: Peer, effort: Effort, keys: list[str]) -> str:
    """The cache, filled by another process, so that no reader inherits what the writer knows."""
    shared: str = peer.prepare(effort.fresh())
    together(1, _write, peer.attach, shared, keys)
    return shared


def _write(index: int, start: Start, attach: Callable[[str], Values], shared: str, keys: list[str]) -> None:
    put = attach(shared).put
    for key in ["warm up", *keys]:
        put(key, np.zeros(100, np.uint8))


def _read(
    index: int, start: Start, attach: Callable[[str], Values], shared: str, keys: list[str], seconds: float
) -> tuple[float, int]:
    """The seconds to read all for the first time, and the reads of the window that counts."""
    get = attach(shared).reopen()
    get("warm up")
    begin = start(0).begin
    time.sleep(max(0.0, begin - clock()))
    for key in keys:
        get(key)
    taken = clock() - begin
    batches = cycle([keys[at : at + BATCH] for at in range(0, KEYS, BATCH)])
    window = start(seconds)
    counted = 0
    while window.open():
        asked = clock()
        for key in next(batches):
            get(key)
        counted += window.counts(asked) * BATCH
    return taken, counted
