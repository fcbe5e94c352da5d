"""RWLock: readers together, writers alone, nobody starves, and a write hold becomes a read hold in one step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import interlock
from contract.conftest import Thread, standing
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_readers_share(connect: Connect, background: Background) -> None:
    """Any number of readers hold it at once, in threads and sessions."""
    sessions = [connect() for _ in range(3)]
    grants = [session.rwlock("a").read().acquire() for session in sessions]
    grants.append(background(sessions[0].rwlock("a").read().acquire).result())
    assert len({grant.token for grant in grants}) == 4
    assert sessions[0].rwlock("a").write().try_acquire() is None
    for grant in grants:
        grant.release()
    assert sessions[0].rwlock("a").write().try_acquire() is not None


def test_a_writer_is_alone(connect: Connect) -> None:
    """While one writes, nobody else reads or writes."""
    one, two = connect().rwlock("a"), connect().rwlock("a")
    with one.write():
        assert two.write().try_acquire() is None
        assert two.read().try_acquire() is None
    assert two.read().try_acquire() is not None


def test_the_write_side_is_the_lock_of_the_name(connect: Connect) -> None:
    """`session.lock` of the same name excludes readers and writers."""
    one, two = connect(), connect()
    with one.lock("a"):
        assert two.rwlock("a").read().try_acquire() is None
    with one.rwlock("a").read():
        assert two.lock("a").try_acquire() is None


def test_a_writer_is_not_starved_by_readers(connect: Connect, background: Background) -> None:
    """A reader that comes after a waiting writer waits behind it, though others still read."""
    reader, writer, late = connect(), connect(), connect()
    order: list[str] = []

    def work(session: interlock.Session, side: str) -> None:
        rw = session.rwlock("a")
        with rw.write() if side == "write" else rw.read():
            order.append(side)

    grant = reader.rwlock("a").read().acquire()
    threads = [background(work, writer, "write")]
    until(lambda: standing(writer, "a"))
    assert late.rwlock("a").read().try_acquire() is None
    threads.append(background(work, late, "read"))
    until(lambda: standing(late, "a"))
    assert order == []
    grant.release()
    for thread in threads:
        thread.result()
    assert order == ["write", "read"]


def test_readers_are_not_starved_by_writers(connect: Connect, background: Background) -> None:
    """Readers that wait between two writers come in together before the second writer."""
    first, second, readers = connect(), connect(), [connect() for _ in range(3)]
    grant = first.rwlock("a").write().acquire()

    def read(session: interlock.Session) -> None:
        with session.rwlock("a").read():
            session.barrier("all readers are inside", 3).wait(10)
            assert session.rwlock("a").write().waiters()

    threads = []
    for session in readers:
        threads.append(background(read, session))
        until(lambda session=session: standing(session, "a"))
    writer = background(second.rwlock("a").write().acquire)
    until(lambda: standing(second, "a"))
    grant.release()
    for thread in threads:
        thread.result()
    writer.result().release()


def test_a_downgrade_lets_no_writer_between(connect: Connect, background: Background) -> None:
    """After `downgrade` the hold is a read hold with the same token: readers come in, the waiting writer does not."""
    one, writer, reader = connect(), connect(), connect()
    grant = one.rwlock("a").write().acquire()
    waiting = background(writer.rwlock("a").write().acquire)
    until(lambda: standing(writer, "a"))
    token = grant.token
    grant.downgrade()
    assert grant.token == token
    assert one.rwlock("a").read().held
    assert not one.rwlock("a").write().held
    assert not waiting.done
    assert reader.rwlock("a").read().try_acquire() is None
    one.rwlock("a").read().release()
    assert waiting.result().token > token


def test_a_downgrade_lets_waiting_readers_in(connect: Connect, background: Background) -> None:
    """A reader at the front of the row is served by a downgrade, while the former writer still reads."""
    one, reader = connect(), connect()
    grant = one.rwlock("a").write().acquire()
    waiting = background(reader.rwlock("a").read().acquire)
    until(lambda: standing(reader, "a"))
    grant.downgrade()
    assert waiting.result().token > grant.token
    assert one.rwlock("a").read().held
    grant.release()
    waiting.result().release()
    assert one.rwlock("a").write().try_acquire() is not None


def test_a_downgrade_needs_a_hold(connect: Connect) -> None:
    """A grant given back cannot be downgraded; downgrading a read hold changes nothing."""
    rw = connect().rwlock("a")
    grant = rw.write().acquire()
    grant.release()
    with pytest.raises(interlock.NotHeld):
        grant.downgrade()
    grant = rw.read().acquire()
    grant.downgrade()
    assert rw.read().held


@pytest.mark.parametrize("first", ["read", "write"])
@pytest.mark.parametrize("second", ["read", "write"])
def test_a_second_hold_of_a_thread_is_a_deadlock(connect: Connect, first: str, second: str) -> None:
    """A thread that holds one side and asks for either is told at once that it would wait for itself."""
    rw = connect().rwlock("a")
    getattr(rw, first)().acquire()
    with pytest.raises(interlock.Deadlock):
        getattr(rw, second)().acquire()


def test_release_is_for_the_side_that_is_held(connect: Connect) -> None:
    """Releasing the side one does not hold is `NotHeld` and takes nothing away."""
    rw = connect().rwlock("a")
    with rw.read():
        with pytest.raises(interlock.NotHeld):
            rw.write().release()
        assert rw.read().held


def test_the_timeout_holds_for_both_sides(connect: Connect) -> None:
    """The constructor's timeout is the one of `with` on either side."""
    one, two = connect().rwlock("a"), connect().rwlock("a", timeout=0)
    with one.write():
        for side in (two.read(), two.write()):
            with pytest.raises(interlock.AcquireTimeout), side:
                pass
