"""16 processes ask at once for one value that is missing: how often is it computed, and when does the last one have it?

A computation that waits shows what the peers add to it. One that keeps a core busy shows what it costs to do it 16
times. Every peer memoizes as its manual suggests; the last is what people write around a lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from caches import DISKCACHE, JOBLIB
from measure import Effort, Panel, Start, clock, together
from peers import FILE, FILELOCK, Peer, filelock_lock, installed
from report import Target

import interlock

COUNT = 16
SECONDS = 0.5  # waited
BURNT_S = 0.2  # of a core
WAITS = f"{COUNT} processes, one missing value, which takes {SECONDS} s"
BURNS = f"{COUNT} processes, one missing value, which takes {BURNT_S} s of a core"
TARGETS = (
    Target(WAITS, "computations", 1),
    Target(WAITS, "ms after", 20),
    Target(BURNS, "computations", 1),
)
Ask = Callable[[], Any]  # for the value
Compute = Callable[[], Any]
_computed: list[float] = []  # when this process was done with it


def measure(effort: Effort) -> list[Panel]:
    """The first panel says when the last process has the value, in milliseconds after its first computation ended."""
    waits = Panel(WAITS, "s", FILELOCK_IDIOM, more_is_better=False)
    burns = Panel(BURNS, "s", FILELOCK_IDIOM, more_is_better=False)
    for _ in range(effort.repeats(3)):
        for peer in _memoizers(_wait):
            computations, whole, after = _race(peer, effort)
            waits.add(peer.name, computations=computations, s=whole, ms_after=after * 1e3)
    if effort.quick:
        return [waits]
    for peer in _memoizers(_burn):
        computations, whole, _ = _race(peer, effort)
        burns.add(peer.name, computations=computations, s=whole)
    return [waits, burns]


def _race(peer: Peer, effort: Effort) -> tuple[int, float, float]:
    """The number of computations, the seconds until the last has the value, and those after the first ended."""
    results = together(COUNT, _ask, peer.attach, peer.prepare(effort.fresh()))
    ends = [end for computed, _, _ in results for end in computed]
    last = max(got for _, _, got in results)
    return len(ends), last - results[0][1], last - min(ends)


def _ask(index: int, start: Start, attach: Callable[[Any], Ask], shared: Any) -> tuple[list[float], float, float]:
    ask = attach(shared)
    begin = start(0).begin
    time.sleep(max(0.0, begin - clock()))
    ask()
    return _computed, begin, clock()


def _wait() -> Any:
    time.sleep(SECONDS)
    return _result()


def _burn() -> Any:
    end = time.thread_time() + BURNT_S
    while time.thread_time() < end:
        pass
    return _result()


def _result() -> Any:
    _computed.append(clock())
    return np.zeros(25, np.float32)


FILELOCK_IDIOM = f"{FILELOCK} around a file"


def _memoizers(compute: Compute) -> list[Peer]:
    """Each attaches as `Ask`."""
    return installed(
        (
            Peer(FILE, str, partial(_interlock, compute)),
            Peer(f"{DISKCACHE} memoize", str, partial(_diskcache, compute)),
            Peer(f"{DISKCACHE} memoize_stampede", str, partial(_diskcache_stampede, compute)),
            Peer(JOBLIB, str, partial(_joblib, compute)),
            Peer("copairs", _import_copairs, partial(_copairs, compute)),
            Peer(FILELOCK_IDIOM, str, partial(_by_hand, compute)),
        )
    )


def _interlock(compute: Compute, directory: str) -> Ask:
    session = interlock.connect(os.path.join(directory, "locks"))
    cache = session.cache("race", directory=os.path.join(directory, "entries"))
    return lambda: cache.get_or_compute("key", compute)


def _diskcache(compute: Compute, directory: str) -> Ask:
    import diskcache

    return diskcache.Cache(directory).memoize()(compute)  # type: ignore[no-any-return]


def _diskcache_stampede(compute: Compute, directory: str) -> Ask:
    import diskcache

    return diskcache.memoize_stampede(diskcache.Cache(directory), expire=60)(compute)  # type: ignore[no-any-return]


def _joblib(compute: Compute, directory: str) -> Ask:
    import joblib

    return joblib.Memory(directory, verbose=0).cache(compute)  # type: ignore[no-any-return]


def _import_copairs(directory: str) -> str:
    import copairs.compute  # noqa: F401  here, because 16 processes would take long to do it

    return directory


def _copairs(compute: Compute, directory: str) -> Ask:
    """Its cache of null distributions, with our computation in place of its own."""
    from copairs import compute as library

    library.random_ap = lambda *_: compute()
    return partial(library.null_dist_cached, 5, 25, 0, 25, Path(directory))


def _by_hand(compute: Compute, directory: str) -> Ask:
    """The idiom: look, lock, look again, compute, write aside, rename."""
    path = os.path.join(directory, "value.npy")
    lock = filelock_lock(f"{path}.lock")

    def ask() -> Any:
        if not os.path.exists(path):
            with lock:
                if not os.path.exists(path):
                    np.save(f"{path}.tmp.npy", compute())
                    os.replace(f"{path}.tmp.npy", path)
        return np.load(path)

    return ask
