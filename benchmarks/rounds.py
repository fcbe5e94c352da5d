"""What does a round of a barrier cost that everybody reaches at once?"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from statistics import median
from typing import Any

from measure import Effort, Panel, Start, clock, times, together
from peers import FILE, MULTIPROCESSING, Peer
from report import Target

import interlock

TARGETS: tuple[Target, ...] = ()  # none is set for a barrier in files: the ratio is for information


def measure(effort: Effort) -> list[Panel]:
    """Barriers of 2, 4 and 8 parties; a sample is the mean of some rounds."""
    panels = []
    for count in effort.sizes(2, 4, 8):
        panel = Panel(f"a round of a barrier of {count} processes", "us", MULTIPROCESSING, more_is_better=False)
        for peer in _barriers(count):
            shared = peer.prepare(effort.fresh())
            repeats, rounds = effort.repeats(7), 60 if effort.quick else 150
            results = together(count, _rounds, peer.attach, shared, repeats, rounds)
            for seconds in zip(*results, strict=True):
                panel.add(peer.name, us=median(seconds) / rounds * 1e6)
        panels.append(panel)
    return panels


def _barriers(parties: int) -> tuple[Peer, ...]:
    return (
        Peer(
            FILE,
            lambda directory: os.path.join(directory, "locks"),
            lambda url: interlock.connect(url).barrier("bench", parties),
        ),
        Peer(
            MULTIPROCESSING,
            lambda directory: multiprocessing.get_context("fork").Barrier(parties),
            lambda barrier: barrier,
        ),
    )


def _rounds(
    index: int, start: Start, attach: Callable[[Any], Any], shared: Any, repeats: int, rounds: int
) -> list[float]:
    wait = attach(shared).wait
    start(0)
    wait()
    taken = []
    for _ in range(repeats):
        started = clock()
        for _ in times(rounds):
            wait()
        taken.append(clock() - started)
    return taken
