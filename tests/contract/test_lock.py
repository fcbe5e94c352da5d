"""Lock: exclusion, order, time-outs, ownership, and what is left behind."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract.conftest import Thread, standing
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_threads_of_one_session_exclude_each_other(connect: Connect, background: Background) -> None:
    """No increment is lost when threads of one session share a counter under the lock."""
    session, counter = connect(), [0]

    def work() -> None:
        for _ in range(20):
            with session.lock("counter"):
                seen = counter[0]
                threading.Event().wait(0)
                counter[0] = seen + 1

    for thread in [background(work) for _ in range(4)]:
        thread.result()
    assert counter == [80]


def test_sessions_exclude_each_other(connect: Connect) -> None:
    """What one session holds no other gets, until it is released."""
    one, two = connect().lock("a"), connect().lock("a")
    one.acquire()
    assert two.try_acquire() is None
    one.release()
    assert two.try_acquire() is not None


def test_names_are_independent(connect: Connect) -> None:
    """Locks of different names do not exclude each other."""
    session = connect()
    with session.lock("a"), session.lock("b"), session.lock("A"), session.lock("a/b"), session.lock("ä \n"):
        assert session.lock("b").locked()


def test_waiters_are_served_in_order_of_arrival(connect: Connect, background: Background) -> None:
    """Whoever came first is served first, whichever session and thread it is."""
    holder, sessions, served = connect(), [connect() for _ in range(6)], []
    grant = holder.lock("a").acquire()

    def work(number: int) -> None:
        with sessions[number].lock("a"):
            served.append(number)

    threads = []
    for number in range(6):
        threads.append(background(work, number))
        until(lambda number=number: standing(sessions[number], "a"))
    grant.release()
    for thread in threads:
        thread.result()
    assert served == list(range(6))


def test_a_newcomer_does_not_overtake_one_that_waits(connect: Connect, background: Background) -> None:
    """Whoever releases and takes again at once finds itself behind the one that waited."""
    one, two = connect(), connect()
    grant = one.lock("a").acquire()
    waiter = background(two.lock("a").acquire)
    until(lambda: standing(two, "a"))
    grant.release()
    assert one.lock("a").try_acquire() is None
    assert waiter.result().token > grant.token


def test_try_acquire_leaves_nothing_behind(connect: Connect) -> None:
    """A failed try does not stand in the row afterwards."""
    one, two = connect(), connect()
    with one.lock("a"):
        assert two.lock("a").try_acquire() is None
        assert standing(two, "a") == 0
        assert one.lock("a").waiters() == []


@pytest.mark.parametrize("timeout", [0, 0.0, 0.02])
def test_a_timeout_leaves_nothing_behind(connect: Connect, timeout: float) -> None:
    """After a time-out nothing is held, nothing stands in the row, and the lock can be had later."""
    one, two = connect(), connect()
    with one.lock("a"):
        with pytest.raises(interlock.AcquireTimeout):
            two.lock("a").acquire(timeout)
        assert standing(two, "a") == 0
    assert not two.lock("a").held
    assert two.lock("a").acquire(timeout)


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf, "1"])
def test_a_timeout_that_is_no_time_is_refused(connect: Connect, timeout: Any) -> None:
    """Negative numbers, NaN and text are a `ValueError`, on the constructor and on the call, and take nothing."""
    session = connect()
    session.lock("b").acquire()
    with pytest.raises(ValueError, match="timeout"):
        session.lock("a").acquire(timeout)
    with pytest.raises(ValueError, match="timeout"):
        session.lock("a", timeout=timeout)
    assert not session.lock("a").locked()


def test_an_infinite_timeout_waits_for_ever(connect: Connect, background: Background) -> None:
    """`inf` means None: it waits and is served."""
    one, two = connect(), connect()
    grant = one.lock("a").acquire(math.inf)
    waiter = background(two.lock("a", timeout=math.inf).__enter__)
    until(lambda: standing(two, "a"))
    grant.release()
    assert waiter.result().token > grant.token


def test_the_constructors_timeout_is_for_with(connect: Connect) -> None:
    """`with` gives up after the constructor's timeout; `acquire` has its own."""
    one, two = connect(), connect()
    with one.lock("a"), pytest.raises(interlock.AcquireTimeout), two.lock("a", timeout=0):
        pass


def test_many_that_time_out_together_all_name_the_holder(connect: Connect, background: Background) -> None:
    """However many give up at the same moment, each is told whom it waited for, and none stays in the row."""
    one, two = connect(note="the holder"), connect()
    with one.lock("a"):
        threads = [background(two.lock("a").acquire, 0.2) for _ in range(24)]
        for thread in threads:
            with pytest.raises(interlock.AcquireTimeout) as caught:
                thread.result()
            assert caught.value.holders
            assert caught.value.position > 0
        assert standing(two, "a") == 0


def test_acquiring_twice_in_one_thread_is_a_deadlock(connect: Connect) -> None:
    """A second acquire of the holder's own thread fails at once and names the lock, with any timeout."""
    lock = connect().lock("a")
    with lock:
        for timeout in (None, 0, 60):
            with pytest.raises(interlock.Deadlock) as caught:
                lock.acquire(timeout)
            assert caught.value.cycle == ("a",)
        assert lock.try_acquire() is None
        assert lock.held
    assert not lock.locked()


def test_a_second_object_of_the_name_is_the_same_lock(connect: Connect) -> None:
    """Deadlock and release see what another object of the same name and session took."""
    session = connect()
    session.lock("a").acquire()
    with pytest.raises(interlock.Deadlock):
        session.lock("a").acquire()
    session.lock("a").release()
    assert not session.lock("a").locked()


def test_a_reentrant_lock_counts(connect: Connect) -> None:
    """A reentrant lock is free after as many releases as acquires, and keeps its token meanwhile."""
    lock, other = connect().lock("a", reentrant=True), connect().lock("a")
    first = lock.acquire()
    assert lock.acquire().token == first.token
    with lock:
        lock.release()
        assert other.try_acquire() is None
    assert other.try_acquire() is None
    lock.release()
    assert other.try_acquire() is not None
    with pytest.raises(interlock.NotHeld):
        lock.release()


def test_a_reentrant_lock_excludes_other_threads(connect: Connect, background: Background) -> None:
    """Reentrance is for the holder's thread alone."""
    lock = connect().lock("a", reentrant=True)
    with lock:
        assert background(lock.try_acquire).result() is None


def test_release_without_holding_is_refused(connect: Connect) -> None:
    """Who holds nothing, or has released already, gets `NotHeld`, and nobody loses a hold by it."""
    one, two = connect(), connect()
    with pytest.raises(interlock.NotHeld):
        one.lock("a").release()
    with two.lock("a"):
        with pytest.raises(interlock.NotHeld):
            one.lock("a").release()
        assert one.lock("a").locked()
    with pytest.raises(interlock.NotHeld):
        two.lock("a").release()


def test_another_thread_cannot_release(connect: Connect, background: Background) -> None:
    """`release` is for the thread that acquired; another thread of the same session is told so."""
    lock = connect().lock("a")
    with lock:
        with pytest.raises(interlock.NotHeld, match="thread"):
            background(lock.release).result()
        assert lock.held
        assert not background(lambda: lock.held).result()


def test_a_grant_is_released_from_any_thread_once(connect: Connect, background: Background) -> None:
    """`grant.release` hands a hold over between threads; a second time is `NotHeld`."""
    lock = connect().lock("a")
    grant = lock.acquire()
    background(grant.release).result()
    assert not lock.locked()
    assert not lock.held
    with pytest.raises(interlock.NotHeld):
        grant.release()
    with pytest.raises(interlock.NotHeld):
        lock.release()


def test_tokens_grow(connect: Connect) -> None:
    """Each grant's token is larger than all before it, across sessions and objects."""
    sessions, tokens = [connect() for _ in range(3)], []
    for session in sessions * 3:
        with session.lock("a") as grant:
            tokens.append(grant.token)
            assert not grant.recovered
    assert tokens == sorted(set(tokens))


def test_with_releases_after_an_error(connect: Connect) -> None:
    """An error in the block comes out of it, and the lock is free."""
    lock = connect().lock("a")
    with pytest.raises(ZeroDivisionError), lock:
        1 / 0  # noqa: B018
    assert not lock.locked()


def test_looking_takes_nothing(connect: Connect, background: Background) -> None:
    """`locked`, `held`, `holder` and `waiters` tell who has it and who waits, from any session."""
    one, two, three = connect(note="first"), connect(note="second"), connect()
    lock = three.lock("a")
    assert (lock.locked(), lock.held, lock.holder(), lock.waiters()) == (False, False, None, [])
    grant = one.lock("a").acquire()
    waiter = background(two.lock("a").acquire)
    until(lambda: standing(two, "a"))
    assert lock.locked()
    assert not lock.held
    assert lock.holder().note == "first"
    assert [who.note for who in lock.waiters()] == ["second"]
    grant.release()
    waiter.result().release()
    assert standing(three, "a") == 0


def test_an_interrupt_while_waiting_leaves_nothing_behind(connect: Connect, background: Background) -> None:
    """KeyboardInterrupt goes through a waiting acquire, which leaves the row; the lock works as before."""
    one, two = connect(), connect()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: standing(two, "a"))
        signal.pthread_kill(main, signal.SIGINT)

    with one.lock("a"):
        background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            two.lock("a").acquire()
        assert standing(two, "a") == 0
        assert not two.lock("a").held
    assert two.lock("a").try_acquire() is not None


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 1001, 7, None, b"bytes"])
def test_a_name_that_is_no_name_is_refused(connect: Connect, name: Any) -> None:
    """Empty, too long, with NUL, or not text: `InvalidName` before anything is touched."""
    with pytest.raises(interlock.InvalidName):
        connect().lock(name)


@pytest.mark.parametrize("name", ["x" * 1000, "../../etc/passwd", ".", "..", "a/b\\c:d", " ", "\n", "\ud800", "🔒"])
def test_any_text_is_a_name(connect: Connect, name: str) -> None:
    """Whatever is text and no longer than 1000 characters works as a name, and is found under it."""
    one, two = connect(), connect()
    with one.lock(name):
        assert two.lock(name).try_acquire() is None
        assert not two.lock(name + "x" if len(name) < 1000 else "x").locked()
