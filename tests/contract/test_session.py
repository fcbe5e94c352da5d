"""Session: identity, life and end, and what pickling a session or its objects means."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import interlock
import interlock.session
from contract.conftest import Thread, standing
from interlock.files import beside
from interlock.stores import _heartbeat
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_each_session_is_somebody(connect: Connect) -> None:
    """Two sessions of one process have ids of their own, and say who they are."""
    one, two = connect(note="first", rank=1, size=4), connect()
    assert one.id != two.id
    assert one.id == one.id
    assert (one.rank, one.size, two.rank, two.size) == (1, 4, 0, 1)
    assert one.holder.pid == two.holder.pid == os.getpid()
    assert (one.holder.note, one.holder.rank, one.holder.size) == ("first", 1, 4)


def test_closing_gives_everything_back(connect: Connect) -> None:
    """`close` releases what every thread of the session holds, reentrant holds too, and is harmless when repeated."""
    one, two = connect(), connect()
    lock = one.lock("a", reentrant=True)
    lock.acquire()
    lock.acquire()
    one.semaphore("b", 1).acquire()
    one.rwlock("c").read().acquire()
    one.close()
    one.close()
    assert two.lock("a").try_acquire()
    assert two.semaphore("b", 1).try_acquire()
    assert two.rwlock("c").write().try_acquire()


def test_a_closed_session_is_lost(connect: Connect) -> None:
    """After `close` the session says so, and whatever needs it fails with `SessionLost`."""
    session = connect()
    lock, once = session.lock("a"), interlock.Once(session, "d")
    for _ in range(2):
        assert once.run(lambda: 1) == 1
        lock.acquire().release()
    session.lock("a").acquire()
    assert not session.lost
    session.close()
    assert session.lost
    uses = (lock.acquire, session.lock("a").acquire, session.event("b").wait, session.barrier("c", 1).wait)
    for use in (*uses, lambda: once.run(pytest.fail), lambda: session.once("d", pytest.fail)):
        with pytest.raises(interlock.SessionLost):
            use()
    with pytest.raises(interlock.NotHeld):
        session.lock("a").release()


WAITS: dict[str, Callable[[interlock.Session], Any]] = {
    "lock": lambda session: session.lock("a").acquire(),
    "read": lambda session: session.rwlock("a").read().acquire(),
    "semaphore": lambda session: session.semaphore("b", 1).acquire(),
    "event": lambda session: session.event("c").wait(),
    "once": lambda session: session.once("d", pytest.fail),
}


@pytest.mark.parametrize("kind", WAITS)
def test_closing_ends_the_waits_of_other_threads(connect: Connect, background: Background, kind: str) -> None:
    """Who waits in a session that another thread closes is told, and gets nothing later; the others are served."""
    one, two, go = connect(), connect(), threading.Event()
    one.lock("a").acquire()
    one.semaphore("b", 1).acquire()
    worker = background(one.once, "d", lambda: go.wait(20))
    until(lambda: standing(one, "d"))
    waiting = background(WAITS[kind], two)
    until(lambda: standing(two, {"semaphore": "b", "event": "c", "once": "d"}.get(kind, "a")))
    two.close()
    with pytest.raises(interlock.SessionLost):
        waiting.result()
    go.set()
    assert worker.result()
    one.close()
    assert connect().lock("a").try_acquire()
    assert connect().semaphore("b", 1).try_acquire()


def test_with_closes(url: str) -> None:
    """A session as a context manager is closed at the end."""
    with interlock.connect(url) as session:
        session.lock("a").acquire()
    assert session.lost
    with interlock.connect(url) as other:
        assert other.lock("a").try_acquire()


def test_a_session_pickles_by_url(connect: Connect) -> None:
    """In the same process it unpickles as itself, so that locks of it go on being known as held."""
    session = connect(note="n")
    assert pickle.loads(pickle.dumps(session)) is session


def make_objects(session: interlock.Session) -> list[Any]:
    """One object of each kind, with every option set."""
    return [
        session.lock("lock", timeout=1.5, reentrant=True),
        session.rwlock("rwlock", timeout=2),
        session.rwlock("rwlock").read(),
        session.semaphore("semaphore", 3, timeout=4),
        session.barrier("barrier", 5),
        session.event("event"),
        session.fence("fence", writer=0, timeout=6),
        interlock.Once(session, "once", timeout=7, retry=True),
    ]


@pytest.mark.parametrize("index", range(8))
def test_objects_pickle_by_name(connect: Connect, index: int) -> None:
    """An object comes back with its name, its options and its session."""
    made = make_objects(connect())[index]
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is type(made)
    assert repr(back) == repr(made)
    for option in ("name", "timeout", "reentrant", "permits", "parties", "writer", "retry", "_session", "_shared"):
        assert getattr(back, option, None) == getattr(made, option, None)


def test_a_pickled_lock_is_the_same_lock(connect: Connect) -> None:
    """What was taken through one object is held, and released, through its unpickled twin."""
    lock = connect().lock("a")
    twin = pickle.loads(pickle.dumps(lock))
    lock.acquire()
    assert twin.held
    twin.release()
    assert not lock.locked()


KINDS: dict[str, Callable[[interlock.Session], Any]] = {
    "lock": lambda session: session.lock("a").acquire(0),
    "semaphore": lambda session: session.semaphore("a", 1).acquire(0),
    "barrier": lambda session: session.barrier("a", 1).wait(),
    "event": lambda session: session.event("a").set(),
    "once": lambda session: session.once("a", lambda: 1),
    "fence": lambda session: session.single("a", lambda: 1),
}


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_a_name_has_one_kind(connect: Connect, first: str, second: str) -> None:
    """Using a name as another kind of object is a `Mismatch` that names both kinds."""
    if first == second:
        return
    one, two = connect(), connect()
    KINDS[first](one)
    with pytest.raises(interlock.Mismatch, match=f"{first}.*{second}"):
        KINDS[second](two)


def test_looking_as_another_kind_is_a_mismatch(connect: Connect) -> None:
    """Looking at a name takes its kind as seriously as using it."""
    session = connect()
    session.event("a").set()
    with pytest.raises(interlock.Mismatch):
        session.lock("a").locked()


def test_scopes_are_apart(connect: Connect, tmp_path: Any) -> None:
    """A name in one scope has nothing to do with the same name in another."""
    with interlock.connect(tmp_path / "elsewhere") as elsewhere, connect().lock("a"):
        assert elsewhere.lock("a").try_acquire()


@pytest.mark.parametrize("url", ["nothing://here", "file://relative", "file:///a?unknown=1", "memory://a?b=c"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    """Unknown schemes and malformed URLs are `Unavailable` at once."""
    with pytest.raises(interlock.Unavailable):
        interlock.connect(url)


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0), (3, 1)])
def test_a_rank_lies_within_its_size(connect: Connect, rank: int, size: int) -> None:
    """A place that does not exist is a `ValueError`."""
    with pytest.raises(ValueError, match="rank"):
        connect(rank=rank, size=size)


def test_a_forgotten_session_that_holds_lives_on(url: str) -> None:
    """What was acquired through objects that nobody refers to any more stays held."""
    keeper = interlock.connect(url)
    interlock.connect(url).lock("a").acquire()
    gc.collect()
    assert keeper.lock("a").try_acquire() is None
    keeper.close()


def test_a_forgotten_session_ends(url: str) -> None:
    """A session that nobody refers to any more and that holds nothing leaves nothing open."""
    keeper = interlock.connect(url)
    keeper.lock("a").acquire().release()
    for _ in range(50):
        interlock.connect(url).lock("a").acquire().release()
    gc.collect()
    assert list(keeper.store.sessions()) == [keeper.id]
    keeper.close()


@pytest.mark.parametrize("whose", ["the process", "files"])
def test_a_shared_session_that_is_lost_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whose: str
) -> None:
    """After a sleep longer than its lease it is refused everything; once it holds nothing, a new one replaces it."""
    url = f"file://{tmp_path}/space?primitive=claims"
    monkeypatch.setenv("INTERLOCK_URL", url)
    monkeypatch.setattr(interlock.session, "_default", {})
    monkeypatch.setattr(beside, "_sessions", {})
    current = interlock.session.default if whose == "the process" else lambda: beside.session_of(url)
    first, awake = current(), _heartbeat._clock
    grant = first.lock("a").acquire()
    monkeypatch.setattr(_heartbeat, "_clock", lambda: awake() + 60)
    assert current() is first
    with pytest.raises(interlock.SessionLost):
        first.lock("b").acquire()
    grant.release()
    second = current()
    assert second is not first
    assert current() is second
    with second.lock("a"), second.lock("b"):
        first.close()
    second.close()
