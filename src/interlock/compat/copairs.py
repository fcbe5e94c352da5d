"""Null distributions of copairs, each computed once for all workers and all jobs that share a directory.

    from interlock.compat.copairs import get_null_dists  # was: from copairs.compute import get_null_dists
    copairs.compute.get_null_dists = get_null_dists  # and so that all of copairs uses it

The algorithm and its numbers are those of copairs 0.5. What a caller may notice:

- copairs draws a seed for each row of `confs`, so that a distribution depends on its place among the others, and a
  directory on who filled it first. Here every configuration has the first of these seeds: alone it gets copairs' own
  numbers, and the same ones in any company. The distributions of configurations with one total thus come from the same
  permutations and are correlated: a p-value of a mean over several of them is larger than if they were independent.
- Files lie in ``null_dists`` of the directory, with a checksum, and know all that decides on their numbers. Files of
  copairs are neither read nor touched. `cache_of` is their cache: `stats`, `explain`, `verify`, `clear`.
- Files are the user's own, or the group's where the directory is setgid.
- Where the directory cannot be used, distributions are computed all the same, with a warning in the log.
- ``seed=None`` computes anew, and stores nothing.

Layer: above `cache`. Needs numpy, and tqdm for the progress bar.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interlock.session import connect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from interlock.cache import Cache

    Null = NDArray[np.float32]

_VERSION = 1  # of the algorithm, and a part of every key: to be raised when its numbers change
_OPEN_CACHES = 32


def null_dist_cached(num_pos: int, total: int, seed: int | None, null_size: int, cache_dir: str | Path | None) -> Null:
    """The average precision of `null_size` random rankings of `total` items, of which `num_pos` are to be found.

    Args:    seed: of the random numbers; None takes fresh ones, and stores nothing.
    Returns: `null_size` numbers, which the caller may change.
    Raises:  what numpy raises for numbers that make no sense, in every process that asks.
    Crash:   if the process that computes dies, the next one computes.
    Cost:    a file read; or, for one of all that ask, a permutation of `total` items for each of the numbers.
    """
    num_pos, total, null_size = index(num_pos), index(total), index(null_size)
    simulate = functools.partial(_simulate, num_pos, total, seed, null_size)
    if seed is None:
        return simulate()
    cache = cache_of(cache_dir)
    try:
        return np.array(cache.get_or_compute((num_pos, total, index(seed), null_size, _VERSION), simulate))
    except OSError as error:  # the cache's: simulating touches no file
        cache.warn(f"{cache!r} cannot be used, so that everything is computed: {error.strerror or error}")
        return simulate()


def get_null_dists(
    confs: NDArray[Any] | Sequence[tuple[int, int]],
    null_size: int,
    seed: int | None,
    cache_dir: str | Path | None = None,
    progress_bar: bool = True,
) -> Null:
    """The null distribution of each configuration, `num_pos` and `total`, in a row of its own.

    Threads compute beside one another, as many as this process may use processors. Each process takes the
    configurations in an order of its own, so that those with the same ones share the work.

    Args:    cache_dir: ``~/.copairs`` for None. progress_bar: show one, if tqdm is installed.
    Returns: ``len(confs)`` rows of `null_size` numbers, which the caller may change.
    Raises, Crash, Cost: as `null_dist_cached`; equal configurations cost one.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    for row, (num_pos, total) in enumerate(confs):
        rows.setdefault((index(num_pos), index(total)), []).append(row)
    first = None if seed is None else int(np.random.default_rng(seed).integers(8096, size=1)[0])
    null_dists = np.empty((len(confs), null_size), dtype=np.float32)

    def fill(conf: tuple[int, int]) -> None:
        null_dists[rows[conf]] = null_dist_cached(*conf, first, null_size, cache_dir)

    order = list(rows)
    random.SystemRandom().shuffle(order)
    with ThreadPoolExecutor(max(1, min(len(order), _processors()))) as threads:
        for _ in _shown(threads.map(fill, order), len(order), progress_bar):
            pass
    return null_dists


def cache_of(cache_dir: str | Path | None = None) -> Cache:
    """The cache of a directory, ``~/.copairs`` for None: one for the whole process, on locks beside its files."""
    return _open(os.path.realpath(Path.home() / ".copairs" if cache_dir is None else cache_dir))


@functools.lru_cache(_OPEN_CACHES)
def _open(root: str) -> Cache:
    return connect(os.path.join(root, ".interlock")).cache("null_dists", directory=os.path.join(root, "null_dists"))


def _simulate(num_pos: int, total: int, seed: int | None, null_size: int) -> Null:
    """Draw the rankings and compute their average precision, with the random numbers and the rounding of copairs."""
    ranks = np.tile(np.arange(1, total + 1, dtype=np.uint16 if total < 2**16 else np.uint32), (null_size, 1))
    np.random.default_rng(seed).permuted(ranks, axis=1, out=ranks)
    hits = np.sort(ranks[:, :num_pos], axis=1)  # the ranks at which something was found
    precision = np.arange(1, hits.shape[1] + 1, dtype=np.float32) / hits
    null: Null = (precision.sum(axis=1) / hits.shape[1]).astype(np.float32)
    return null


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(done: Iterator[None], number: int, progress_bar: bool) -> Iterator[None]:
    """The same, with a progress bar."""
    if progress_bar:
        with suppress(ImportError):
            from tqdm.auto import tqdm

            return iter(tqdm(done, total=number, leave=False))
    return done
