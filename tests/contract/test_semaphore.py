"""Semaphore: as many holders as permits, in order, and permits that everybody agrees on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract.conftest import Thread, standing
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_as_many_hold_as_there_are_permits(connect: Connect) -> None:
    """The permits can be had, one more cannot, and one given back can be had again."""
    sessions = [connect() for _ in range(3)]
    grants = [sessions[0].semaphore("a", 2).acquire(), sessions[1].semaphore("a", 2).acquire()]
    assert sessions[2].semaphore("a", 2).try_acquire() is None
    grants[0].release()
    assert sessions[2].semaphore("a", 2).try_acquire() is not None


def test_never_more_at_once_than_permits(connect: Connect, background: Background) -> None:
    """However many threads and sessions hammer it, no more than the permits are inside."""
    sessions, inside, most = [connect() for _ in range(2)], set(), [0]

    def work(number: int) -> None:
        semaphore = sessions[number % 2].semaphore("a", 3)
        for _ in range(15):
            with semaphore:
                inside.add(number)
                most[0] = max(most[0], len(inside))
                inside.discard(number)

    for thread in [background(work, number) for number in range(6)]:
        thread.result()
    assert 1 <= most[0] <= 3
    assert not sessions[0].semaphore("a", 3).locked()


def test_one_thread_may_hold_several(connect: Connect) -> None:
    """A thread takes several permits without a deadlock, and gives each back."""
    semaphore = connect().semaphore("a", 2)
    with semaphore, semaphore:
        assert semaphore.try_acquire() is None
    with pytest.raises(interlock.NotHeld):
        semaphore.release()


def test_another_thread_may_release(connect: Connect, background: Background) -> None:
    """As in the standard library, a permit may be given back by another thread of the session."""
    semaphore = connect().semaphore("a", 1)
    semaphore.acquire()
    background(semaphore.release).result()
    assert not semaphore.locked()


def test_another_session_may_not_release(connect: Connect) -> None:
    """A permit belongs to its session."""
    one, two = connect().semaphore("a", 1), connect().semaphore("a", 1)
    with one, pytest.raises(interlock.NotHeld):
        two.release()


def test_waiters_are_served_in_order(connect: Connect, background: Background) -> None:
    """Permits go to those who came first."""
    holder, sessions, served = connect(), [connect() for _ in range(4)], []
    grants = [holder.semaphore("a", 2).acquire() for _ in range(2)]

    def work(number: int) -> None:
        grant = sessions[number].semaphore("a", 2).acquire()
        served.append(number)
        grant.release()

    threads = []
    for number in range(4):
        threads.append(background(work, number))
        until(lambda number=number: standing(sessions[number], "a"))
    grants[0].release()
    for thread in threads:
        thread.result()
    assert served == [0, 1, 2, 3]


def test_permits_must_agree(connect: Connect) -> None:
    """Another number of permits while it is in use is a `Mismatch`; when it is idle the next user decides."""
    one, two = connect(), connect()
    with one.semaphore("a", 2), pytest.raises(interlock.Mismatch, match="2"):
        two.semaphore("a", 3).acquire(0)
    with two.semaphore("a", 3):
        assert two.semaphore("a", 3).locked()


@pytest.mark.parametrize("permits", [0, -1, 1.5, True, "2", None])
def test_permits_are_a_whole_number(connect: Connect, permits: Any) -> None:
    """Anything but a whole number from 1 is a `ValueError`."""
    with pytest.raises(ValueError, match="permits"):
        connect().semaphore("a", permits)


def test_a_timeout_leaves_nothing_behind(connect: Connect) -> None:
    """After a time-out no permit is lost."""
    one, two = connect(), connect()
    with one.semaphore("a", 1):
        with pytest.raises(interlock.AcquireTimeout) as caught:
            two.semaphore("a", 1).acquire(0.01)
        assert caught.value.position == 1
        assert standing(two, "a") == 0
    assert two.semaphore("a", 1).try_acquire() is not None


def test_a_permit_cannot_be_downgraded(connect: Connect) -> None:
    """There is no weaker form of a permit, and asking does not lose it."""
    semaphore = connect().semaphore("a", 1)
    with semaphore as grant:
        with pytest.raises(RuntimeError, match="downgraded"):
            grant.downgrade()
        assert semaphore.held
