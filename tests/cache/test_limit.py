"""The limit: least recently used first, exact for one process, bounded for many, and never under a reader."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import interlock
from crash.processes import Board, collected, fork, wait
from interlock import entries
from interlock.cache import Cache
from interlock.cache.eviction import FRESH_S
from interlock.stores import _mount

Opened = Callable[..., Cache]
VALUE = b"x" * 1000
SIZE = 1200  # of an entry with it, at most


def total(cache: Cache) -> int:
    return cache.stats().bytes


def age(cache: Cache, key: Any, seconds: float) -> None:
    """Let the last use of an entry lie back."""
    path = cache._shards.path(interlock.keys.canonical(key))
    state = os.stat(path)
    os.utime(path, ns=(time.time_ns() - int(seconds * 1e9), state.st_mtime_ns))


def test_one_process_never_exceeds_it(opened: Opened) -> None:
    """After every single write the cache is within its limit, and not emptier than need be."""
    cache = opened(limit_bytes=20 * SIZE)
    for number in range(100):
        cache.put(number, VALUE)
        assert total(cache) <= cache.limit_bytes
        assert number in cache
    assert cache.stats().entries >= 15
    assert cache.stats().evicted == 100 - cache.stats().entries
    assert cache.explain(0).startswith(f"missing: evicted to stay within {20 * SIZE} bytes on 20")


def test_the_least_recently_used_goes_first(opened: Opened) -> None:
    """Entries that were read lately stay, whether they are kept in memory or were read by another process."""
    cache = opened(limit_bytes=20 * SIZE)
    for number in range(16):
        cache.put(number, VALUE)
        cache.get(number)
        age(cache, number, 1000 + number)
    cache.get(15)
    opened().get(14)
    for number in range(100, 110):
        cache.put(number, VALUE)
    assert 15 in cache
    assert 14 in cache
    assert 13 not in cache


def test_last_use_is_set_once_a_minute(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit sets the last use of an entry only if the one it has is old, and never changes the entry's stamp."""
    cache = opened()
    cache.put("key", VALUE)
    path = next(cache.listing()).path
    before, set_by = entries.stamp(os.stat(path)), []
    real = os.utime
    for reader in (cache, cache, opened()):
        for seconds in (FRESH_S / 2, FRESH_S * 2):
            age(cache, "key", seconds)
            with monkeypatch.context() as patch:
                patch.setattr(os, "utime", lambda *a, s=seconds, **k: (set_by.append(s), real(*a, **k)))
                assert reader.get("key") == VALUE
        assert time.time() - os.stat(path).st_atime < FRESH_S
    assert set_by == [FRESH_S * 2] * 3
    assert entries.stamp(os.stat(path)) == before


def test_what_is_larger_than_the_limit_is_not_stored(opened: Opened) -> None:
    """A value that does not fit alone is refused by `put` and returned by `get_or_compute`; the others stay."""
    cache = opened(limit_bytes=5000)
    cache.put("key", VALUE)
    with pytest.raises(interlock.LimitExceeded, match="5000"):
        cache.put("large", b"x" * 5001)
    assert cache.get_or_compute("large", lambda: b"x" * 5001) == b"x" * 5001
    assert ("key" in cache, "large" in cache) == (True, False)


def test_many_writers_keep_it(file_url: str) -> None:
    """Eight processes write at the same time; the cache exceeds its limit by their share at most."""
    limit = 100 * SIZE

    def write() -> None:
        cache = Cache(interlock.connect(file_url), "cache", limit_bytes=limit)
        for number in range(60):
            cache.put((os.getpid(), number), VALUE)

    with collected():
        pids = [fork(write) for _ in range(8)]
        watcher = Cache(interlock.connect(file_url), "cache")
        assert [wait(pid) for pid in pids] == [0] * 8
    assert total(watcher) <= limit * (1 + 8 / 16)
    assert watcher.verify() == []


def test_readers_go_on_while_entries_are_evicted(file_url: str) -> None:
    """Readers hold mapped arrays and take more while a writer evicts them all: every one is whole to the end."""
    size = entries.MAPPED_FROM // 8
    done = Board(1)

    def make(number: int) -> numpy.ndarray:
        return numpy.full(size, float(number))

    def read() -> None:
        cache = Cache(interlock.connect(file_url), "cache")
        held: list[tuple[int, numpy.ndarray]] = []
        while not done[0]:
            number = len(held) % 30
            found = cache.get(number)
            if found is not None:
                held.append((number, found))
        assert held
        assert all((array == number).all() for number, array in held[-200:])

    with collected():
        cache = Cache(interlock.connect(file_url), "cache", limit_bytes=8 * entries.MAPPED_FROM)
        cache.put(0, make(0))
        pids = [fork(read) for _ in range(2)]
        for number in range(120):
            cache.put(number % 30, make(number % 30))
        done[0] = 1
        assert [wait(pid) for pid in pids] == [0, 0]
    assert cache.stats().evicted > 0


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the directory were on a file system that other hosts see."""
    monkeypatch.setattr(_mount, "may_be_shared", lambda path: True)


@pytest.mark.usefixtures("shared")
def test_on_shared_mounts_files_go_an_hour_later(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evicted, deleted and replaced files are moved aside for readers on other hosts, and deleted after an hour."""
    cache = opened(limit_bytes=4 * SIZE)
    removed = Path(cache.directory, "removed")
    cache.put("a", b"first" * 200)
    inode = os.stat(next(cache.listing()).path).st_ino
    cache.put("a", VALUE)
    assert [path.stat().st_ino for path in removed.iterdir()] == [inode]
    cache.delete("a")
    for number in range(5):
        cache.put(number, VALUE)
    aside = list(removed.iterdir())
    assert len(aside) == 2 + cache.stats().evicted > 2
    assert all(path.stat().st_size > 1000 for path in aside)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert cache.clear() > 0
    assert all(path not in aside for path in removed.iterdir())


def test_left_overs_of_killed_writers_go_an_hour_later(opened: Opened) -> None:
    """A temporary file is left alone while its writer may still be at work, and removed later; others never are."""
    cache = opened(limit_bytes=10**6)
    cache.put("key", VALUE)
    folder = Path(next(cache.listing()).path).parent
    young, old, foreign = folder / ".a.tmp", folder / ".b.tmp", folder / "notes.txt"
    for path in (young, old, foreign):
        path.write_text("x")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    assert cache.stats().entries == 1
    assert (young.exists(), old.exists(), foreign.exists()) == (True, False, True)


def test_eviction_goes_on_where_the_session_cannot(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock that keeps two evictors apart the limit is kept all the same."""

    def fail(*_: object) -> None:
        raise interlock.Unavailable("no store")

    monkeypatch.setattr(interlock.Lock, "try_acquire", fail)
    cache = opened(limit_bytes=5 * SIZE)
    for number in range(20):
        cache.put(number, VALUE)
    assert total(cache) <= 5 * SIZE


def test_a_release_that_failed_is_made_up_for(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails while the evictor's lock is given back fails no `put`, and the limit is kept later."""
    cache = opened(limit_bytes=5 * SIZE)

    def fail(*_: object) -> None:
        raise interlock.Unavailable("no store")

    with monkeypatch.context() as patch:
        patch.setattr(interlock.Grant, "release", fail)
        cache.put("first", VALUE)
    for number in range(20):
        cache.put(number, VALUE)
    assert total(cache) <= 5 * SIZE


def test_one_evictor_at_a_time(opened: Opened) -> None:
    """While another participant evicts, a writer goes on without."""
    cache, other = opened(limit_bytes=5 * SIZE), opened()
    with other.session.lock("cache/cache/eviction"):
        for number in range(10):
            cache.put(number, VALUE)
        assert cache.stats().entries == 10
    cache.put(10, VALUE)
    assert total(cache) <= 5 * SIZE


def test_kept_values_are_bounded(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process keeps of its values in memory has a limit; what had to go is read from its file again."""
    monkeypatch.setattr("interlock.cache.kept.WEIGHT", 10_000)
    cache = opened()
    for number in range(100):
        cache.put(number, VALUE)
        assert cache.get(number) == VALUE
    kept = [number for number in range(100) if cache._kept.find(number) is not None]
    assert 0 < len(kept) < 10
    assert all(cache.get(number) == VALUE for number in range(100))
