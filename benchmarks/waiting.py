"""What does waiting cost? CPU that a process burns while it waits a second for a lock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Worker
from peers import FILELOCK, Peer, shared_locks
from report import Target

TITLE = "CPU of a waiter in one second of waiting"
TARGETS = (Target(TITLE, "cpu ms", 1),)
WARM_UP_S = 0.1


def measure(effort: Effort) -> list[Panel]:
    """All repeats of a peer wait side by side, each for a lock of its own."""
    panel = Panel(TITLE, "cpu ms", FILELOCK, more_is_better=False)
    for peer in shared_locks():
        for burnt in _burnt(peer, effort):
            panel.add(peer.name, cpu_ms=burnt * 1e3)
    return [panel]


def _burnt(peer: Peer, effort: Effort) -> list[float]:
    """CPU for each second of waiting; a first, short wait loads what only a waiter needs, and is not counted."""
    shared = [peer.prepare(effort.fresh()) for _ in range(effort.repeats(5))]
    waiters = [Worker(_wait, peer.attach, each) for each in shared]
    locks = [peer.attach(each) for each in shared]
    try:
        for waiter in waiters:
            waiter.receive()
        for seconds in (WARM_UP_S, effort.seconds(1.0)):
            for lock, waiter in zip(locks, waiters, strict=True):
                lock.acquire()
                waiter.send()
            time.sleep(seconds)
            for lock in locks:
                lock.release()
            burnt = [waiter.receive() / seconds for waiter in waiters]
        return burnt
    finally:
        for waiter in waiters:
            waiter.end()


def _wait(pipe: Any, attach: Callable[[Any], Any], shared: Any) -> None:
    lock = attach(shared)
    pipe.send(None)
    while True:
        pipe.recv()
        before = time.process_time()
        lock.acquire()
        burnt = time.process_time() - before
        lock.release()
        pipe.send(burnt)
