"""What do parties of a barrier in shared memory burn while one of them is a second late, and what if it is killed?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from barriers import MPI, barriers, ranks
from measure import Effort, Panel, Start, Worker, clock, together
from peers import MULTIPROCESSING, SHM, Peer
from report import Target

COUNT = 4
LATE = f"a barrier of {COUNT} processes in shared memory, one of them a second late: CPU of each other one"
KILLED = f"a barrier of {COUNT} processes in shared memory: from SIGKILL of one to the error at the others"
TARGETS = (
    Target(LATE, "cpu ms", 0.1, ours=SHM),
    Target(LATE, "worst cpu ms", 1, ours=SHM),
    Target(KILLED, "ms", 1000, ours=SHM),
)
LATE_S = 1.0
HANGS_S = 2.0  # silence after which the others are taken to wait for ever


def measure(effort: Effort) -> list[Panel]:
    """Both panels; of the second, a peer that hangs is not asked again."""
    late = Panel(LATE, "cpu ms", MULTIPROCESSING, more_is_better=False)
    killed = Panel(KILLED, "ms", MULTIPROCESSING, more_is_better=False)
    for _ in range(effort.repeats(5)):
        for peer in barriers(COUNT):
            burnt = together(COUNT, _wait_for_one, peer.attach, peer.prepare(effort.fresh()), LATE_S)[1:]
            late.add(peer.name, cpu_ms=sum(burnt) / len(burnt) * 1e3, worst_cpu_ms=max(burnt) * 1e3)
        found = ranks(COUNT, 10, LATE_S, effort)
        if found:
            late.add(MPI, cpu_ms=found["cpu"] * 1e3)
    for peer in barriers(COUNT):
        for _ in range(effort.repeats(5)):
            taken = _breaking(peer, effort)
            killed.add(peer.name, ms=taken * 1e3)
            if taken == float("inf"):
                break
    return [late, killed]


def _wait_for_one(index: int, start: Start, attach: Callable[[Any], Any], shared: Any, seconds: float) -> float:
    """CPU from one's arrival to everybody's."""
    wait = attach(shared).wait
    start(0)
    for _ in range(3):
        wait()
    if index == 0:
        time.sleep(seconds)
    before = time.process_time()
    wait()
    return time.process_time() - before


def _breaking(peer: Peer, effort: Effort) -> float:
    """Seconds from the death of a party to the last other one's being told."""
    shared = peer.prepare(effort.fresh())
    parties = [Worker(_take_part, peer.attach, shared) for _ in range(COUNT)]
    try:
        for party in parties:
            party.receive()
        for party in parties[1:]:
            party.send()
        time.sleep(0.1)
        killed = clock()
        parties[0].kill()
        return max(party.receive(HANGS_S) for party in parties[1:]) - killed
    except TimeoutError:
        return float("inf")
    finally:
        for party in parties:
            party.end()


def _take_part(pipe: Any, attach: Callable[[Any], Any], shared: Any) -> None:
    wait = attach(shared).wait
    for _ in range(3):
        wait()
    pipe.send(None)
    pipe.recv()
    try:
        wait()
    except Exception:
        pipe.send(clock())
    pipe.recv()
