"""Processes: exclusion whatever way they were started, and what a fork leaves to the child."""

from __future__ import annotations

import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract import peer
from contract.conftest import standing
from contract.peer import METHODS, Peer
from interlock.stores._waiting import REPOLL_S
from patience import until

Peers = Callable[..., Peer]
ROUNDS = 40
HAND_OFFS = 50


@pytest.fixture
def session(file_url: str) -> Any:
    """The test's own session in the scope of the peers."""
    with interlock.connect(file_url) as opened:
        yield opened


def count_up(session: interlock.Session, path: str) -> None:
    """Add one to the number in a file, many times, reading and writing apart."""
    for _ in range(ROUNDS):
        with session.lock("counter"), open(path, "r+") as file:
            number = int(file.read())
            file.seek(0)
            file.write(str(number + 1))


@pytest.mark.parametrize("method", METHODS)
def test_processes_exclude_each_other(peers: Peers, tmp_path: Any, method: str) -> None:
    """No update of a file is lost between processes, however they were started."""
    path = tmp_path / "number"
    path.write_text("0")
    workers = [peers(method) for _ in range(3)]
    for worker in workers:
        worker.ask(count_up, str(path))
    for worker in workers:
        worker.answer()
    assert path.read_text() == str(3 * ROUNDS)


def timed_take(session: interlock.Session, name: str) -> float:
    """The monotonic time at which the lock was obtained; gives it back."""
    with session.lock(name):
        return time.monotonic()


def test_a_release_wakes_the_waiter_of_another_process(session: interlock.Session, peers: Peers) -> None:
    """A hand-off is driven by the event and not by polling: it takes far less than the interval of the re-poll."""
    other, took = peers(), []
    for _ in range(HAND_OFFS):
        grant = session.lock("a").acquire()
        other.ask(timed_take, "a")
        until(lambda: session.lock("a").waiters())
        released = time.monotonic()
        grant.release()
        took.append(other.answer() - released)
    assert statistics.median(took) < REPOLL_S / 5


def set_after(session: interlock.Session, name: str) -> None:
    """Set the event of a name."""
    session.event(name).set()


def test_an_event_is_seen_in_another_process(session: interlock.Session, peers: Peers) -> None:
    """`set` in one process lets a waiter in another go."""
    other = peers()
    session.event("a").clear()
    other.ask(set_after, "a")
    assert session.event("a").wait(20)
    other.answer()


def meet(session: interlock.Session, name: str, generations: int) -> list[int]:
    """Pass a barrier of the whole world several times; returns the generations."""
    return [session.barrier(name).wait(20).generation for _ in range(generations)]


def test_a_barrier_joins_processes(peers: Peers) -> None:
    """Processes pass the same generations together."""
    ranks = [peers(rank=rank, size=3) for rank in range(3)]
    for rank in ranks:
        rank.ask(meet, "a", 5)
    seen = [rank.answer() for rank in ranks]
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 5


def compute(session: interlock.Session, name: str) -> tuple[int, int]:
    """The result of once, which is the pid of the process that computed, and the own pid."""
    return session.once(name, lambda: session.holder.pid), session.holder.pid


def test_once_is_computed_in_one_process(peers: Peers) -> None:
    """Of several processes one computes; all get its value."""
    workers = [peers() for _ in range(3)]
    for worker in workers:
        worker.ask(compute, "a")
    answers = [worker.answer() for worker in workers]
    assert len({computed for computed, _ in answers}) == 1
    assert answers[0][0] in {own for _, own in answers}


def fail_once(session: interlock.Session, name: str) -> Any:
    """A computation that fails."""

    def fail() -> None:
        raise LookupError("in another process")

    return session.once(name, fail)


def test_an_error_crosses_processes(session: interlock.Session, peers: Peers) -> None:
    """The error of a computation in one process is raised in another, with its traceback."""
    with pytest.raises(LookupError):
        peers().call(fail_once, "a")
    with pytest.raises(LookupError, match="in another process") as caught:
        session.once("a", pytest.fail)
    assert "in fail" in "".join(caught.value.__notes__)


def use_pickled(session: interlock.Session, text: bytes) -> tuple[bool, bool, bool]:
    """Whether the first of two pickled locks can be had, is then held, and shares its session with the second."""
    first, second = pickle.loads(text)
    grant = first.try_acquire()
    return grant is not None, first.held, first._session is second._session


@pytest.mark.parametrize("method", METHODS)
def test_a_pickled_lock_is_a_participant_of_its_own(session: interlock.Session, peers: Peers, method: str) -> None:
    """Unpickled in another process, objects of one session share a new session there, and exclude this one."""
    text = pickle.dumps((session.lock("a"), session.lock("b")))
    other = peers(method)
    with session.lock("a"):
        assert other.call(use_pickled, text) == (False, False, True)
    assert other.call(use_pickled, text) == (True, True, True)
    assert session.lock("a").try_acquire() is None


def try_timeout(session: interlock.Session, name: str) -> None:
    """Try a lock that is held."""
    session.lock(name).acquire(0)


def test_an_error_crosses_with_its_holder(session: interlock.Session, peers: Peers) -> None:
    """An `AcquireTimeout` raised in another process arrives here with the holder it names, which is this process."""
    other = peers()
    with session.lock("a"), pytest.raises(interlock.AcquireTimeout) as caught:
        other.call(try_timeout, "a")
    assert caught.value.holders == (session.holder,)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a forked child, which inherits the arguments as they are."""
    here, there = multiprocessing.Pipe()

    def answer() -> None:
        try:
            there.send((function(*args), None))
        except BaseException as error:
            there.send((None, error))

    child = multiprocessing.get_context("fork").Process(target=answer)
    child.start()
    try:
        assert here.poll(20)
        result, error = here.recv()
    finally:
        child.join()
        here.close()
        there.close()
    if error is not None:
        raise error
    return result


def test_a_forked_child_owns_nothing(session: interlock.Session) -> None:
    """In the child the lock is not held, neither release nor grant.release work, and the parent's hold stays."""
    lock = session.lock("a")
    grant = lock.acquire()
    for release in (lock.release, grant.release):
        with pytest.raises(interlock.NotHeld):
            in_child(release)
    assert in_child(lambda: (lock.held, lock.locked(), lock.try_acquire())) == (False, True, None)
    assert lock.held
    lock.release()


def test_a_forked_child_is_a_participant_of_its_own(session: interlock.Session) -> None:
    """The inherited session works in the child under another id, and what the child took is free after its end."""
    lock = session.lock("a")

    def child() -> tuple[str, int]:
        return session.id, lock.acquire().token

    mine = session.id
    theirs, token = in_child(child)
    assert theirs != mine
    grant = lock.acquire(5)
    assert grant.token > token
    assert grant.recovered


def test_a_child_that_ends_takes_nothing_with_it(session: interlock.Session, file_url: str) -> None:
    """The parent's hold and session outlive a child that closes its copy of the session."""
    lock = session.lock("a")
    lock.acquire()
    in_child(session.close)
    assert not session.lost
    assert lock.held
    with interlock.connect(file_url) as other:
        assert other.lock("a").try_acquire() is None


def test_nothing_of_another_process_can_be_released(session: interlock.Session, peers: Peers) -> None:
    """A lock held by one process is not released by another."""
    other = peers()
    other.call(peer.take, "a")
    with pytest.raises(interlock.NotHeld):
        session.lock("a").release()
    assert session.lock("a").holder().pid == other.pid
    other.call(peer.give, "a")
    assert standing(session, "a") == 0
