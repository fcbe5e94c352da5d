"""Many processes and one cache: one computation per key, whoever dies, and never a wrong value."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import interlock
from crash.processes import Board, Log, collected, fork, kill, wait
from interlock.cache import Cache
from patience import until

ROWS = 5000


def expected(seed: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).random(ROWS)


class Race:
    """Processes that ask for keys of one cache at the same moment; who computes what is in a log."""

    def __init__(self, url: str, tmp_path: Path, **options: Any) -> None:
        self.url = url
        self.log = Log(str(tmp_path / "log"))
        self.start = Board(1)
        self.options = options

    def cache(self) -> Cache:
        return Cache(interlock.connect(self.url), "race", **self.options)

    def compute(self, seed: int) -> numpy.ndarray:
        self.log.add(os.getpid(), seed)
        return expected(seed)

    def run(self, workers: int, work: Callable[[Cache], None]) -> None:
        """Run `work` in so many processes, none of which begins before all are there."""
        waiting = Board(workers)

        def one(number: int) -> None:
            cache = self.cache()
            waiting[number] = 1
            until(lambda: self.start[0])
            work(cache)

        self.start[0] = 0
        with collected():
            pids = [fork(lambda number=number: one(number)) for number in range(workers)]
            until(lambda: all(waiting[number] for number in range(workers)))
            self.start[0] = 1
            assert [wait(pid) for pid in pids] == [0] * workers

    def computed(self) -> Counter[int]:
        """How often each key was computed."""
        return Counter(seed for _, seed in self.log.entries())


@pytest.mark.parametrize("workers", [16, 32])
def test_workers_that_race_for_a_key_compute_it_once(file_url: str, tmp_path: Path, workers: int) -> None:
    """Round after round, all workers miss the same key at once: one computes, all have the right array."""
    race = Race(file_url, tmp_path)
    rounds = 5

    def ask(cache: Cache, seed: int) -> None:
        assert numpy.array_equal(cache.get_or_compute(("null", seed), lambda: race.compute(seed)), expected(seed))

    for seed in range(rounds):
        race.run(workers, lambda cache, seed=seed: ask(cache, seed))
    assert race.computed() == dict.fromkeys(range(rounds), 1)
    with interlock.connect(file_url) as session:
        assert list(session.store.records()) == [], "a record of a computation was left behind"


def test_workers_share_many_keys(file_url: str, tmp_path: Path) -> None:
    """Each worker wants every key, in an order of its own: each key is computed once among all."""
    race = Race(file_url, tmp_path)

    def ask(cache: Cache) -> None:
        for seed in numpy.random.default_rng(os.getpid()).permutation(40):
            found = cache.get_or_compute(int(seed), lambda seed=seed: race.compute(int(seed)))
            assert numpy.array_equal(found, expected(int(seed)))

    race.run(8, ask)
    assert race.computed() == dict.fromkeys(range(40), 1)


def test_errors_reach_all_who_wait(file_url: str, tmp_path: Path) -> None:
    """The error of the one who computes is raised by all who wait, with its type, and is not stored."""
    race = Race(file_url, tmp_path)
    workers = 8

    def ask(cache: Cache) -> None:
        turn = interlock.Once(cache.session, cache.turn("'key'"))

        def fail() -> None:
            race.log.add(os.getpid(), 0)
            until(lambda: len(turn._record().claims) == workers)
            raise ValueError(f"of {os.getpid()}")

        with pytest.raises(ValueError, match=r"of \d+") as caught:
            cache.get_or_compute("key", fail)
        race.log.add(os.getpid(), str(caught.value))

    race.run(workers, ask)
    (worker, _), *told = race.log.entries()
    assert [what for _, what in told] == [f"of {worker}"] * workers
    assert "key" not in race.cache()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_the_next_takes_over_from_the_dead(file_url: str, tmp_path: Path, sign: int) -> None:
    """The worker that computes is killed, or interrupted: of those who wait one computes, and all have the value."""
    race = Race(file_url, tmp_path)
    board = Board(1)

    def hang() -> None:
        board[0] = os.getpid()
        time.sleep(60)

    def victim() -> None:
        race.cache().get_or_compute(7, hang)

    def ask() -> None:
        assert numpy.array_equal(race.cache().get_or_compute(7, lambda: race.compute(7)), expected(7))

    with collected():
        dead = fork(victim)
        until(lambda: board[0])
        pids = [fork(ask) for _ in range(4)]
        os.kill(dead, sign)
        assert wait(dead) != 0
        assert [wait(pid) for pid in pids] == [0] * 4
    assert race.computed() == {7: 1}


def test_writers_killed_at_any_moment_leave_whole_entries(file_url: str, tmp_path: Path) -> None:
    """Writers of two large values are killed again and again: whoever reads has one of the two, or none."""
    race = Race(file_url, tmp_path)
    values = [numpy.full(200_000, number, "u4") for number in range(2)]
    reader = race.cache()

    def write() -> None:
        cache = race.cache()
        while True:
            for value in values:
                cache.put("key", value)

    with collected():
        for number in range(40):
            pid = fork(write)
            time.sleep(0.001 * (number % 7))
            for _ in range(5):
                found = reader.get("key")
                assert found is None or (found.shape == (200_000,) and (found == found[0]).all())
            kill(pid)
    assert reader.stats().healed == 0
    assert reader.verify() == []


def test_readers_and_a_writer_of_one_key(file_url: str, tmp_path: Path) -> None:
    """While one key is written over and over, every reader has a whole value, and never goes back to an older one."""
    race = Race(file_url, tmp_path)
    done = Board(1)
    race.cache().put("key", [0] * 100)

    def read(cache: Cache) -> None:
        last = 0
        while not done[0]:
            found = cache.get("key")
            assert found == found[:1] * 100
            assert found[0] >= last
            last = found[0]

    with collected():
        pids = [fork(lambda: read(race.cache())) for _ in range(4)]
        writer = race.cache()
        for number in range(1, 300):
            writer.put("key", [number] * 100)
        done[0] = 1
        assert [wait(pid) for pid in pids] == [0] * 4


def test_sixty_processes_open_at_once(file_url: str, tmp_path: Path) -> None:
    """Sixty processes open a cache that nobody has made yet, and each writes and reads at once."""
    race = Race(file_url, tmp_path, limit_bytes=10**7)

    def use(cache: Cache) -> None:
        cache.put(os.getpid(), b"x" * 100)
        assert cache.get(os.getpid()) == b"x" * 100
        assert cache.get_or_compute("shared", lambda: race.compute(1))[0] == expected(1)[0]

    race.run(60, use)
    assert race.computed() == {1: 1}
    assert race.cache().stats().entries == 61
