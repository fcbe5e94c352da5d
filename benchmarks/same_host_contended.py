"""How does a lock in shared memory serve many processes that do nothing but take it? Throughput, fairness and waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Start, clock, fairness, quantile, times, together
from peers import FILELOCK, MULTIPROCESSING, SHM, Peer
from report import Target
from same_host import shared_locks

SIZES = (2, 4, 8, 16)
LOT = 16  # one turn of so many is timed: a look at the clock costs as much as a turn
SAMPLES = 4000  # waits that each process reports, evenly picked
LONG = "8 processes hammer one lock in shared memory for 5 s"


def _title(count: int) -> str:
    return f"{count} processes hammer one lock in shared memory"


TARGETS = (
    *(Target(_title(count), "per second", 1, most=False, than=MULTIPROCESSING, ours=SHM) for count in SIZES),
    *(Target(_title(count), "p99 wait us", 10, ours=SHM) for count in SIZES),
    Target(LONG, "fairness", 2, ours=SHM),
)


def measure(effort: Effort) -> list[Panel]:
    """Every shared lock for each number of processes; one that hangs is not asked again."""
    hung: set[str] = set()
    panels = [
        _panel(_title(count), count, effort.seconds(0.6), effort.repeats(5), shared_locks(), effort, hung)
        for count in effort.sizes(*SIZES)
    ]
    few = [peer for peer in shared_locks() if peer.name in (SHM, MULTIPROCESSING, FILELOCK)]
    return [*panels, _panel(LONG, 8, effort.seconds(5), effort.repeats(5), few, effort, hung)]


def _panel(
    title: str, count: int, seconds: float, repeats: int, peers: list[Peer], effort: Effort, hung: set[str]
) -> Panel:
    panel = Panel(title, "per second", MULTIPROCESSING, more_is_better=True)
    for _ in range(repeats):
        for peer in peers:
            if peer.name in hung:
                continue
            try:
                results = together(count, _hammer, peer.attach, peer.prepare(effort.fresh()), seconds)
            except Exception:  # it gave no answer, or its lock was somebody else's when it was to be released
                if peer.name.startswith("interlock"):
                    raise
                hung.add(peer.name)
                panel.add(peer.name, per_second=0, fairness=float("inf"), p99_wait_us=float("inf"))
                continue
            counts = [turns for turns, _ in results]
            waits = [pair for _, pairs in results for pair in pairs]
            panel.add(
                peer.name,
                per_second=sum(counts) / seconds,
                fairness=fairness(counts),
                p99_wait_us=quantile(waits, 0.99) * 1e6,
                worst_wait_us=max(wait for wait, _ in waits) * 1e6,
            )
    return panel


def _hammer(
    index: int, start: Start, attach: Callable[[Any], Any], shared: Any, seconds: float
) -> tuple[int, list[tuple[float, int]]]:
    """Turns taken, and a sample of the waits, each with the number of timed waits it stands for."""
    lock = attach(shared)
    acquire, release = lock.acquire, lock.release
    acquire()
    release()
    waits = []
    window = start(seconds)
    while window.open():
        for _ in times(LOT - 1):
            acquire()
            release()
        asked = clock()
        acquire()
        got = clock()
        release()
        if window.counts(asked):
            waits.append(got - asked)
    step = max(1, len(waits) // SAMPLES)
    return len(waits) * LOT, [(wait, step) for wait in waits[::step]]
