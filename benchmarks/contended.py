"""How does a lock serve many processes that do nothing but take it? Throughput, fairness and waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Start, clock, fairness, quantile, together
from peers import FILELOCK, Peer, shared_locks
from report import Target

SAMPLES = 4000  # waits that each process reports, evenly picked
_EIGHT = "8 processes take one lock in turn, without a pause"
TARGETS = (
    Target(_EIGHT, "per second", 40_000, most=False),
    Target(_EIGHT, "per second", 1, most=False, than=FILELOCK),
    Target(_EIGHT, "fairness", 1.2),
    Target(_EIGHT, "p99 wait ms", 2),
)


def measure(effort: Effort) -> list[Panel]:
    """Every shared lock with 2, 8 and 16 processes."""
    panels = []
    for count in effort.sizes(2, 8, 16):
        title = _EIGHT.replace("8", str(count), 1)
        panel = Panel(title, "per second", FILELOCK, more_is_better=True)
        for _ in range(effort.repeats(3)):
            for peer in shared_locks():
                _sample(panel, peer, count, effort)
        panels.append(panel)
    return panels


def _sample(panel: Panel, peer: Peer, count: int, effort: Effort) -> None:
    seconds = effort.seconds(0.9)
    results = together(count, _hammer, peer.attach, peer.prepare(effort.fresh()), seconds)
    counts = [turns for turns, _ in results]
    waits = [pair for _, pairs in results for pair in pairs]
    panel.add(
        peer.name,
        per_second=sum(counts) / seconds,
        fairness=fairness(counts),
        p50_wait_ms=quantile(waits, 0.50) * 1e3,
        p99_wait_ms=quantile(waits, 0.99) * 1e3,
    )


def _hammer(
    index: int, start: Start, attach: Callable[[Any], Any], shared: Any, seconds: float
) -> tuple[int, list[tuple[float, int]]]:
    """Turns taken, and a sample of the waits, each with the number of waits it stands for."""
    lock = attach(shared)
    acquire, release = lock.acquire, lock.release
    acquire()
    release()
    waits = []
    window = start(seconds)
    while window.open():
        asked = clock()
        acquire()
        got = clock()
        release()
        if window.counts(asked):
            waits.append(got - asked)
    step = max(1, len(waits) // SAMPLES)
    return len(waits), [(wait, step) for wait in waits[::step]]
