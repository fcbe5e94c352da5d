"""Soak in shared memory: processes hammer one object while they are killed, replaced, stopped and continued at random.

The tormentor and the judge are those of `crash.test_soak`; what is added here is what only the core promises: a stopped
holder keeps its lock, a killed one is told of, and no permit is ever lost.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import interlock
from conftest import new_scope
from crash import test_soak
from crash.processes import Board, collected, fork, kill, wait
from crash.test_soak import PERMITS, Torment, judge_barrier
from patience import until

KINDS = ("lock", "rwlock", "semaphore")
HELD, GO = 0, 1


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty scope of shared memory."""
    yield from new_scope("shm", tmp_path)


def soak(tmp_path: Path, url: str, kind: str, strikes: int, seed: int) -> Torment:
    """Torment one kind of object, and take everything that there is to take once more."""
    done = test_soak.soak(tmp_path, kind, strikes, seed, url)
    with interlock.connect(url) as session:
        if kind == "semaphore":
            grants = [session.semaphore("object", PERMITS).acquire(30) for _ in range(PERMITS)]
            assert session.semaphore("object", PERMITS).try_acquire() is None
        else:
            grants = [session.lock("object").acquire(30)]
        assert session.lock("other").try_acquire() is not None
        for grant in grants:
            grant.release()
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_never_more_inside_than_allowed(tmp_path: Path, url: str, kind: str) -> None:
    """Kills, stops and replacements, some dozens: no overlap, no hang, no permit lost, everybody finishes."""
    done = soak(tmp_path, url, kind, 30, seed=3)
    assert done.kills > 8
    assert done.stops > 3


def test_a_barrier_passes_or_tells(tmp_path: Path, url: str) -> None:
    """Parties that are killed and replaced: the others pass or are told, never wait for ever, never share a place."""
    assert judge_barrier(tmp_path, 40, seed=5, url=url).kills > 10


def hold(url: str, board: Board) -> None:
    """Take the lock by the fast way, say so, and keep it until told."""
    lock = interlock.connect(url).lock("a")
    lock.acquire().release()
    with lock:
        board[HELD] = 1
        until(lambda: board[GO])


def test_a_stopped_holder_keeps_its_lock(url: str) -> None:
    """Nobody gets it while its holder is stopped, however long they wait, and the holder gives it back afterwards."""
    board = Board(2)
    with collected(), interlock.connect(url) as session:
        pid = fork(lambda: hold(url, board))
        until(lambda: board[HELD])
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(interlock.AcquireTimeout):
            session.lock("a").acquire(0.3)
        assert session.lock("a").try_acquire() is None
        board[GO] = 1
        os.kill(pid, signal.SIGCONT)
        assert wait(pid) == 0
        assert not session.lock("a").acquire(30).recovered


def test_every_killed_holder_is_told_of(url: str) -> None:
    """Twenty holders are killed one after another while somebody waits: each time the next one is told, once."""
    with collected(), interlock.connect(url) as session:
        for _ in range(20):
            board = Board(2)
            pid = fork(lambda board=board: hold(url, board))
            until(lambda board=board: board[HELD])
            kill(pid)
            with session.lock("a") as grant:
                assert grant.recovered
            with session.lock("a") as grant:
                assert not grant.recovered


def test_every_permit_of_the_dead_comes_back(url: str) -> None:
    """Holders of permits are killed while others hold theirs: their permits come back, one by one, and no more."""

    def take(board: Board, slot: int) -> None:
        interlock.connect(url).semaphore("a", 3).acquire()
        board[slot] = 1
        signal.pause()

    with collected(), interlock.connect(url) as session:
        permits = session.semaphore("a", 3)
        for _ in range(8):
            board = Board(3)
            pids = [fork(lambda slot=slot, board=board: take(board, slot)) for slot in range(3)]
            until(lambda board=board: all(board[slot] for slot in range(3)))
            grants = []
            for pid in pids:
                assert permits.try_acquire() is None
                kill(pid)
                grants.append(permits.acquire(30))
            assert all(grant.recovered for grant in grants)
            for grant in grants:
                grant.release()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [*KINDS, "barrier"])
def test_thousands_of_kills(tmp_path: Path, url: str, kind: str, seed: int) -> None:
    """The same for longer: all kinds and seeds together kill well over four thousand times."""
    if kind == "barrier":
        assert judge_barrier(tmp_path, 300, seed, url).kills > 140
    else:
        assert soak(tmp_path, url, kind, 300, seed).kills > 140
