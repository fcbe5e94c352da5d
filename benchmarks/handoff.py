"""How long does it take from a release until the waiter holds the lock? One waiter, on another process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from measure import Effort, Panel, Worker, clock
from peers import FILELOCK, Peer, shared_locks
from report import Target

TITLE = "from release to the waiter holding it"
TARGETS = (Target(TITLE, "median us", 200), Target(TITLE, "median us", 200, than=FILELOCK))
HOLD_S = (0.005, 0.055)  # longer than any polling interval here, and random, so that no phase is favoured


def measure(effort: Effort) -> list[Panel]:
    """The median of some hand-offs between two processes, for each peer and repeat."""
    panel = Panel(TITLE, "median us", FILELOCK, more_is_better=False)
    for _ in range(effort.repeats(5)):
        for peer in shared_locks():
            taken = handoffs(peer, effort, rounds=5 if effort.quick else 11)
            panel.add(peer.name, median_us=median(taken) * 1e6, worst_us=max(taken) * 1e6)
    return [panel]


def handoffs(peer: Peer, effort: Effort, rounds: int) -> list[float]:
    """Seconds from a release to the waiter's hold, `rounds` times."""
    shared = peer.prepare(effort.fresh())
    waiter = Worker(_wait, peer.attach, shared)
    lock = peer.attach(shared)
    try:
        waiter.receive()
        return [_handoff(lock, waiter) for _ in range(rounds + 1)][1:]
    finally:
        waiter.end()


def _handoff(lock: Any, waiter: Worker) -> float:
    lock.acquire()
    waiter.send()
    waiter.receive()
    time.sleep(random.uniform(*HOLD_S))
    released = clock()
    lock.release()
    got: float = waiter.receive()
    return got - released


def _wait(pipe: Any, attach: Callable[[Any], Any], shared: Any) -> None:
    lock = attach(shared)
    pipe.send(None)
    while True:
        pipe.recv()
        pipe.send(None)
        lock.acquire()
        got = clock()
        lock.release()
        pipe.send(got)
