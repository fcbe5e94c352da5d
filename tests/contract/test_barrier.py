"""Barrier: all arrive before any leaves, again and again; when it breaks, all learn why and who is missing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract.conftest import Thread
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_nobody_leaves_before_all_have_arrived(connect: Connect, background: Background) -> None:
    """Over many generations, each party leaves with all parties' arrivals behind it and an index of its own."""
    sessions, lock, arrived, passed = [connect() for _ in range(4)], threading.Lock(), [0], []

    def work(session: interlock.Session) -> None:
        for generation in range(5):
            with lock:
                arrived[0] += 1
            arrival = session.barrier("a", 4).wait(20)
            assert arrived[0] >= 4 * (generation + 1)
            passed.append((arrival.generation, arrival.index))

    for thread in [background(work, session) for session in sessions]:
        thread.result()
    first = min(generation for generation, _ in passed)
    assert sorted(passed) == [(first + generation, index) for generation in range(5) for index in range(4)]


def test_one_party_never_waits(connect: Connect) -> None:
    """A barrier of one lets its party through, also with timeout 0."""
    barrier = connect().barrier("a", 1)
    generations = [barrier.wait(timeout).generation for timeout in (None, 0, 1)]
    assert generations == [generations[0] + step for step in range(3)]


def test_two_threads_of_a_session_are_two_parties(connect: Connect, background: Background) -> None:
    """Threads of one session meet at its barrier."""
    barrier = connect().barrier("a", 2)
    other = background(barrier.wait, 20)
    assert {barrier.wait(20).index, other.result().index} == {0, 1}
    assert barrier.waiting == 0


def test_the_number_of_parties_comes_from_the_session(connect: Connect, background: Background) -> None:
    """Without `parties` it is the session's size."""
    sessions = [connect(rank=rank, size=3) for rank in range(3)]
    assert sessions[0].barrier("a").parties == 3
    threads = [background(session.barrier("a").wait, 20) for session in sessions]
    assert {thread.result().index for thread in threads} == {0, 1, 2}


@pytest.mark.parametrize("parties", [0, -1, 2.0, True, "2"])
def test_parties_are_a_whole_number(connect: Connect, parties: Any) -> None:
    """Anything but a whole number from 1 is a `ValueError`."""
    with pytest.raises(ValueError, match="parties"):
        connect().barrier("a", parties)


def test_parties_must_agree(connect: Connect, background: Background) -> None:
    """A party that counts otherwise is told `Mismatch`; those that wait are not disturbed."""
    one, two = connect(), connect()
    waiting = background(one.barrier("a", 2).wait, 20)
    until(lambda: two.barrier("a", 2).waiting == 1)
    with pytest.raises(interlock.Mismatch, match="2"):
        two.barrier("a", 3).wait(1)
    two.barrier("a", 2).wait(20)
    waiting.result()


def test_parties_must_agree_in_later_rounds_too(connect: Connect, background: Background) -> None:
    """The same after the parties have met before, and for one of them that counts otherwise itself."""
    one, two = connect(), connect()
    for _ in range(3):
        other = background(one.barrier("a", 2).wait, 20)
        two.barrier("a", 2).wait(20)
        other.result()
    waiting = background(one.barrier("a", 2).wait, 20)
    until(lambda: two.barrier("a", 2).waiting == 1)
    for session in (two, connect()):
        with pytest.raises(interlock.Mismatch, match="2"):
            session.barrier("a", 3).wait(1)
    two.barrier("a", 2).wait(20)
    waiting.result()


def test_a_timeout_breaks_it_for_all_and_names_the_missing_ranks(connect: Connect, background: Background) -> None:
    """When one party times out, every waiting party gets `BrokenBarrier` naming each rank that did not come."""
    sessions = [connect(rank=rank, size=4) for rank in range(4)]
    patient = background(sessions[0].barrier("a").wait)
    until(lambda: sessions[1].barrier("a").waiting == 1)
    with pytest.raises(interlock.BrokenBarrier) as caught:
        sessions[2].barrier("a").wait(0.05)
    with pytest.raises(interlock.BrokenBarrier) as told:
        patient.result()
    for error in (caught.value, told.value):
        assert list(error.missing) == [1, 3]
        assert "rank 2 timed out" in error.reason
        assert "rank 1" in str(error)
    assert sessions[0].barrier("a").broken


def test_a_missing_member_is_named_as_a_holder(connect: Connect, background: Background) -> None:
    """A party that came last time and not this time is named as the participant it is."""
    here, absent = connect(), connect(note="the absent one")
    other = background(absent.barrier("a", 2).wait, 20)
    here.barrier("a", 2).wait(20)
    other.result()
    with pytest.raises(interlock.BrokenBarrier, match="the absent one") as caught:
        here.barrier("a", 2).wait(0.05)
    assert [holder.note for holder in caught.value.missing] == ["the absent one"]


def test_a_late_joiner_is_told_at_once(connect: Connect) -> None:
    """Who comes to a broken barrier gets `BrokenBarrier` without waiting, until it is reset."""
    one, two = connect(), connect()
    with pytest.raises(interlock.BrokenBarrier):
        one.barrier("a", 2).wait(0)
    with pytest.raises(interlock.BrokenBarrier):
        two.barrier("a", 2).wait()
    two.barrier("a", 2).reset()
    assert not one.barrier("a", 2).broken


def test_abort_breaks_it_with_a_reason(connect: Connect, background: Background) -> None:
    """`abort` lets all waiting parties go with the reason, and keeps the barrier broken."""
    one, two = connect(), connect()
    waiting = background(one.barrier("a", 3).wait)
    until(lambda: two.barrier("a", 3).waiting == 1)
    two.barrier("a", 3).abort("no more data")
    with pytest.raises(interlock.BrokenBarrier, match="no more data") as caught:
        waiting.result()
    assert "no more data" in caught.value.reason
    assert list(caught.value.missing) == []  # who has not come yet is not to blame
    assert one.barrier("a", 3).broken
    assert one.barrier("a", 3).waiting == 0


def test_reset_lets_go_and_begins_afresh(connect: Connect, background: Background) -> None:
    """`reset` breaks the wait of those inside and leaves a barrier that works."""
    one, two = connect(), connect()
    waiting = background(one.barrier("a", 2).wait)
    until(lambda: two.barrier("a", 2).waiting == 1)
    two.barrier("a", 2).reset()
    with pytest.raises(interlock.BrokenBarrier, match="reset"):
        waiting.result()
    other = background(one.barrier("a", 2).wait, 20)
    two.barrier("a", 2).wait(20)
    other.result()


def test_aborted_and_reset_it_works_again(connect: Connect, background: Background) -> None:
    """After `abort` and `reset` the next generation passes."""
    one, two = connect(), connect()
    one.barrier("a", 2).abort()
    one.barrier("a", 2).reset()
    other = background(one.barrier("a", 2).wait, 20)
    two.barrier("a", 2).wait(20)
    other.result()


def test_parties_that_have_passed_leave_nothing_behind(connect: Connect, background: Background) -> None:
    """After a passage nobody waits, nothing is owed, and the record can be retired."""
    one, two = connect(), connect()
    other = background(one.barrier("a", 2).wait, 20)
    two.barrier("a", 2).wait(20)
    other.result()
    assert one.barrier("a", 2).waiting == 0
    assert one.store.retire("a", interlock.Barrier.machine)


def test_an_interrupt_while_waiting_breaks_it(connect: Connect, background: Background) -> None:
    """KeyboardInterrupt comes out of `wait`; the others are told instead of left to hang."""
    one, two, main = connect(), connect(), threading.main_thread().ident
    assert main is not None
    waiting = background(two.barrier("a", 3).wait)

    def interrupt() -> None:
        until(lambda: one.barrier("a", 3).waiting == 2)
        signal.pthread_kill(main, signal.SIGINT)

    until(lambda: two.barrier("a", 3).waiting == 1)
    background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.barrier("a", 3).wait()
    with pytest.raises(interlock.BrokenBarrier, match="interrupted"):
        waiting.result()
    assert one.barrier("a", 3).waiting == 0


def test_a_rank_that_closes_its_session_is_missed(connect: Connect, background: Background) -> None:
    """A rank that ends in good order, but before the others, breaks the barrier for them at once, and is named."""
    zero, one = (connect(rank=rank, size=2) for rank in range(2))
    first = background(zero.barrier("a").wait, 20)
    one.barrier("a").wait(20)
    first.result()
    one.close()
    with pytest.raises(interlock.BrokenBarrier) as caught:
        zero.barrier("a").wait(20)
    assert caught.value.missing == [1]


def test_a_party_without_a_rank_can_be_replaced(connect: Connect, background: Background) -> None:
    """Where parties have no ranks, another session may come in the place of one that was closed."""
    stays, leaves, comes = connect(), connect(), connect()
    first = background(stays.barrier("a", 2).wait, 20)
    leaves.barrier("a", 2).wait(20)
    first.result()
    leaves.close()
    second = background(stays.barrier("a", 2).wait, 20)
    assert comes.barrier("a", 2).wait(20).generation == 1
    second.result()
