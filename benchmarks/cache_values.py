"""What does a cache take to give and to store a numpy array of 100 B, 100 kB and 10 MB? In microseconds.

A get is measured three times: *first*, when the process has never seen the entry, which is when we check its
checksum; *reopened*, when it has, but keeps nothing of it open; and *again*, when it may keep what it likes. Whoever
keeps nothing shows twice the same. A mapped array is not read before it is used, whoever maps it. A put stores a new
key; the usual one counts, because now and then one waits for what others write to the same disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from statistics import median

import numpy as np
from caches import DISKCACHE, JOBLIB_MAPPED, LIMIT, Get, Values, all_caches
from measure import Effort, Panel, Start, clock, together
from peers import Peer
from report import Target

SIZES = {"100 B": 100, "100 kB": 100_000, "10 MB": 10_000_000}
_KEYS = {100: 100, 100_000: 50, 10_000_000: 3}  # that a sample puts and gets
_PASSES = 7
_LARGE = 1_000_000  # bytes: these are removed at once, for their memory; to remove many small files slows the next peer
_WARM_UP = "warm up"


def _title(size: str) -> str:
    return f"a numpy array of {size}"


TARGETS = (
    *(Target(_title(size), "reopened us", limit) for size, limit in zip(SIZES, (5, 5, 10), strict=True)),
    *(Target(_title(size), "again us", 2.5) for size in SIZES),
    *(Target(_title(size), "put us", 0.77, than=LIMIT) for size in SIZES),  # 1.3 times what it costs at least
    Target(_title("10 MB"), "reopened us", 40, than=DISKCACHE),
    Target(_title("10 MB"), "reopened us", 10, than=JOBLIB_MAPPED),
)


def measure(effort: Effort) -> list[Panel]:
    """A panel for each size; processes of their own write and read, so that no reader has seen what it reads."""
    panels = []
    for size, length in SIZES.items():
        panel = Panel(_title(size), "reopened us", DISKCACHE, more_is_better=False)
        keys = [f"key {number}" for number in range(_KEYS[length])]
        for _ in range(effort.repeats(5)):
            for peer in all_caches():
                _sample(panel, peer, effort.fresh(), length, keys)
        panels.append(panel)
    return panels


def _sample(panel: Panel, peer: Peer, directory: str, length: int, keys: list[str]) -> None:
    shared = peer.prepare(directory)
    [put_us] = together(1, _put, peer.attach, shared, length, keys)
    [(first_us, reopened_us, again_us)] = together(1, _get, peer.attach, shared, keys)
    panel.add(peer.name, first_us=first_us, reopened_us=reopened_us, again_us=again_us, put_us=put_us)
    if length >= _LARGE:
        shutil.rmtree(directory)


def _put(index: int, start: Start, attach: Callable[[str], Values], shared: str, length: int, keys: list[str]) -> float:
    put = attach(shared).put
    array = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    put(_WARM_UP, array)
    return median(_pass(lambda key: put(key, array), [key]) for key in keys)


def _get(
    index: int, start: Start, attach: Callable[[str], Values], shared: str, keys: list[str]
) -> tuple[float, float, float]:
    values = attach(shared)
    get = values.reopen()
    if get(_WARM_UP) is None:
        raise RuntimeError("what was put is not there")
    first = _pass(get, keys)
    reopened = median(_pass(values.reopen(), keys) for _ in range(_PASSES))
    return first, reopened, median(_pass(get, keys) for _ in range(_PASSES))


def _pass(use: Get, keys: list[str]) -> float:
    started = clock()
    for key in keys:
        use(key)
    return (clock() - started) / len(keys) * 1e6
