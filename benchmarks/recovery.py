"""A holder is killed with SIGKILL: how long until the waiter has the lock?

The dead process is still a zombie while the waiter takes over: its parent has not asked about it yet.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Worker, clock
from peers import FILELOCK, Peer, shared_locks
from report import Target

TITLE = "from SIGKILL of the holder to the waiter holding it"
TARGETS = (Target(TITLE, "ms", 250), Target(TITLE, "worst ms", 250))
HANGS_S = 2.0  # silence after which a lock is taken to be lost for ever
HOLD_S = (0.05, 0.15)


def measure(effort: Effort) -> list[Panel]:
    """Some kills for each peer; one that hangs is not asked again."""
    panel = Panel(TITLE, "ms", FILELOCK, more_is_better=False)
    for peer in shared_locks():
        taken: list[float] = []
        for _ in range(effort.repeats(5)):
            taken.append(takeover(peer, effort))
            if taken[-1] == float("inf"):
                break
        for seconds in taken:
            panel.add(peer.name, ms=seconds * 1e3, worst_ms=max(taken) * 1e3)
    return [panel]


def takeover(peer: Peer, effort: Effort) -> float:
    """Seconds from the holder's death to the waiter's hold; infinite if it hangs."""
    shared = peer.prepare(effort.fresh())
    holder = Worker(_take, peer.attach, shared)
    waiter = Worker(_take, peer.attach, shared)
    try:
        holder.receive()
        holder.send()
        holder.receive()
        waiter.receive()
        waiter.send()
        time.sleep(random.uniform(*HOLD_S))
        killed = clock()
        holder.kill()
        got: float = waiter.receive(HANGS_S)
        return got - killed
    except TimeoutError:
        return float("inf")
    finally:
        holder.end()
        waiter.end()


def _take(pipe: Any, attach: Callable[[Any], Any], shared: Any) -> None:
    lock = attach(shared)
    pipe.send(None)
    pipe.recv()
    lock.acquire()
    pipe.send(clock())
    pipe.recv()
