"""What does a round of a barrier in shared memory cost that everybody reaches at once?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from barriers import MPI, POLLED, YIELDS, barriers, ranks
from measure import Effort, Panel, Start, clock, times, together
from peers import MULTIPROCESSING, SHM
from report import Target

SIZES = (2, 4, 8, 16)
ROUNDS = {POLLED: 12, MULTIPROCESSING: 400}
OTHERS = 3000


def _title(count: int) -> str:
    return f"a round of a barrier in shared memory of {count} processes"


TARGETS = (
    *(Target(_title(count), "us", limit, ours=SHM) for count, limit in zip(SIZES, (0.6, 5, 9, 25), strict=True)),
    *(Target(_title(count), "us", 1 / 1.5, than=YIELDS, ours=SHM) for count in SIZES),
    *(Target(_title(count), "us", 18, than=MULTIPROCESSING, ours=SHM) for count in SIZES),
    *(Target(_title(count), "us", 2000, than=POLLED, ours=SHM) for count in SIZES[-1:]),
    *(Target(_title(count), "us", 1, than=MPI, ours=SHM) for count in SIZES[2:]),
)


def measure(effort: Effort) -> list[Panel]:
    """Barriers of each size; every repeat starts the parties anew."""
    panels = []
    for count in effort.sizes(*SIZES):
        panel = Panel(_title(count), "us", MULTIPROCESSING, more_is_better=False)
        for _ in range(effort.repeats(5)):
            for peer in barriers(count):
                rounds = ROUNDS.get(peer.name, OTHERS)
                seconds = together(count, _rounds, peer.attach, peer.prepare(effort.fresh()), rounds)
                panel.add(peer.name, us=median(seconds) / rounds * 1e6)
            found = ranks(count, OTHERS, 0, effort)
            if found:
                panel.add(MPI, us=found["round"] * 1e6)
        panels.append(panel)
    return panels


def _rounds(index: int, start: Start, attach: Callable[[Any], Any], shared: Any, rounds: int) -> float:
    wait = attach(shared).wait
    start(0)
    for _ in times(2):
        wait()
    started = clock()
    for _ in times(rounds):
        wait()
    return clock() - started
