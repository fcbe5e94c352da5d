"""Who takes part: workers of every start method, threads, crowds, signals amid a wait, and those who come too late."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import interlock
from crash.processes import collected, fork, kill, wait
from interlock.abc import Evict, Leave, Ticket
from interlock.machines.admission import LOCK, SEMAPHORE, Acquire
from interlock.shm.lock import Lock
from interlock.stores import open_store
from patience import until
from shm.conftest import Connect, folder

METHODS = ("fork", "spawn", "forkserver")
ROOM = 510


def count_with(lock: Any, counter: Any, rounds: int) -> None:
    """Add to a number that only the lock guards."""
    for _ in range(rounds):
        with lock:
            seen = counter.value
            time.sleep(0)
            counter.value = seen + 1


def count_by_name(url: str, counter: Any, rounds: int) -> None:
    count_with(interlock.connect(url).lock("a"), counter, rounds)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by", ["pickle", "name"])
def test_workers_of_every_kind_exclude_each_other(connect: Connect, url: str, method: str, by: str) -> None:
    """A lock that was used here already is handed over, or found by name: no addition is lost."""
    context = multiprocessing.get_context(method)
    counter = context.Value("i", 0, lock=False)
    lock = connect().lock("a")
    with lock:
        pass
    first = (count_with, (lock, counter, 200)) if by == "pickle" else (count_by_name, (url, counter, 200))
    workers = [context.Process(target=first[0], args=first[1], daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    count_with(lock, counter, 200)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert counter.value == 600


def test_a_forked_child_owns_nothing(connect: Connect) -> None:
    """It is no holder, cannot release, and must wait; its end does not end the parent's hold, nor its life."""
    lock = connect().lock("a")
    lock.acquire().release()
    with collected(), lock as grant:

        def child() -> None:
            assert not lock.held
            assert lock.try_acquire() is None
            for release in (lock.release, grant.release):
                with pytest.raises(interlock.NotHeld):
                    release()

        assert wait(fork(child)) == 0
        assert lock.held
        with interlock.connect(lock._session.url) as other:
            assert other.lock("a").try_acquire() is None


def test_a_child_that_lives_on_does_not_keep_its_dead_parents_lock(url: str) -> None:
    """The parent's life ends with the parent."""
    reader, writer = os.pipe()

    def parent() -> None:
        lock = interlock.connect(url).lock("a")
        lock.acquire().release()
        with lock:
            os.write(writer, b"%d\n" % fork(signal.pause, outlives=True))
            signal.pause()

    with collected():
        pid = fork(parent)
        orphan = int(os.read(reader, 20))
        try:
            kill(pid)
            assert interlock.connect(url).lock("a").acquire(30).recovered
        finally:
            os.kill(orphan, signal.SIGKILL)
            os.close(reader)
            os.close(writer)


def test_threads_of_one_session_exclude_each_other(connect: Connect) -> None:
    """Threads share the session's seat, and the lock is still one thread's at a time."""
    session, total, inside = connect(), [0], [0]
    lock = session.lock("a")

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                assert inside[0] == 1
                seen = total[0]
                time.sleep(0)
                total[0] = seen + 1
                inside[0] -= 1

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert total == [800]
    assert session.idle


def test_first_uses_at_once_share_one_seat(connect: Connect) -> None:
    """Threads that use a lock for the first time at the same moment do not lose one another's hold."""
    for number in range(30):
        session, start = connect(), threading.Barrier(4)
        lock = session.lock(f"a{number}")

        def use(lock: interlock.Lock = lock, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(3):
                with lock:
                    pass

        threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert session.idle
        assert not lock.locked()
        session.close()


def test_permits_stay_permits_at_the_seat(connect: Connect) -> None:
    """Sessions that have used a semaphore before, and so go the fast way, get no more permits than there are."""
    semaphores = [connect().semaphore("a", 2) for _ in range(4)]
    for semaphore in semaphores:
        semaphore.acquire().release()
    assert [semaphore.try_acquire() is not None for semaphore in semaphores] == [True, True, False, False]


@contextlib.contextmanager
def waiting(lock: interlock.Lock, errors: list[BaseException]) -> Iterator[None]:
    """A thread that waits for the lock, and gives it back if it gets it."""

    def work() -> None:
        try:
            lock.acquire(2).release()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    until(lock.waiters)
    yield
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_a_session_that_is_closed_while_it_waits_holds_up_nobody(connect: Connect, after_s: float) -> None:
    """Its thread's wait ends, at the seat or further on, and whoever is behind it is served."""
    one, other, third = connect(), connect(), connect()
    other.lock("a").acquire().release()
    grant = one.lock("a").acquire()
    with waiting(other.lock("a"), []):
        time.sleep(after_s)
        other.close()
        grant.release()
        with third.lock("a", timeout=30):
            pass
    with pytest.raises(interlock.SessionLost):
        other.lock("a").acquire(1)


def test_a_holder_that_closes_lets_the_next_one_in(connect: Connect) -> None:
    """Closing gives back what is held at a seat, and that is no death."""
    one, other = connect(), connect()
    one.lock("a").acquire().release()
    one.lock("a").acquire()
    errors: list[BaseException] = []
    with waiting(other.lock("a"), errors):
        one.close()
    assert errors == []
    assert not other.lock("a").acquire().recovered


def test_a_crowd_is_told_that_there_is_no_room(url: str) -> None:
    """More sessions than an object has cells: `LimitExceeded`, and room again when some of them close or die."""
    with contextlib.ExitStack() as opened:
        sessions = [opened.enter_context(interlock.connect(url)) for _ in range(ROOM)]
        locks = [session.lock("a") for session in sessions]
        for lock in locks:
            lock.acquire().release()
            lock.acquire().release()
        late = opened.enter_context(interlock.connect(url))
        with pytest.raises(interlock.LimitExceeded):
            late.lock("a").acquire(1)
        with locks[7]:
            pass
        for session in sessions[100:102]:  # one to sit at, and one for the ticket of whoever finds it taken
            session.close()
        with late.lock("a"):
            assert locks[7].try_acquire() is None


def test_the_room_of_the_dead_is_given_away(url: str) -> None:
    """A process that used up all cells and was killed leaves room for others."""
    reader, writer = os.pipe()

    def crowd() -> None:
        locks = [interlock.connect(url).lock("a") for _ in range(ROOM)]
        for lock in locks:
            lock.acquire().release()
            lock.acquire().release()
        os.write(writer, b".")
        signal.pause()

    with collected(), interlock.connect(url) as session:
        pid = fork(crowd)
        assert os.read(reader, 1)
        with pytest.raises(interlock.LimitExceeded):
            session.lock("a").acquire(1)
        kill(pid)
        with session.lock("a") as grant:
            assert not grant.recovered
        os.close(reader)
        os.close(writer)


MAKERS: dict[str, Callable[[interlock.Session], object]] = {
    "lock": lambda session: session.lock("a").try_acquire(),
    "semaphore": lambda session: session.semaphore("a", 2).try_acquire(),
    "event": lambda session: session.event("a").set(),
    "once": lambda session: session.once("a", lambda: 1),
    "barrier": lambda session: session.barrier("a", 1).wait(1),
}


@pytest.mark.parametrize("second", sorted(MAKERS))
@pytest.mark.parametrize("first", sorted(MAKERS))
def test_one_name_is_one_kind(connect: Connect, first: str, second: str) -> None:
    """Whoever uses a name for another kind of object is told so, whichever came first."""
    MAKERS[first](connect())
    if first == second:
        MAKERS[second](connect())
        return
    with pytest.raises(interlock.Mismatch, match=f"{first}.*{second}|{second}.*{first}"):
        MAKERS[second](connect())


def test_another_number_of_permits_when_nobody_uses_them(connect: Connect) -> None:
    """While one is held the number stands, in every process; then the next one may choose, again and again."""
    one, other = connect(), connect()
    with one.semaphore("a", 2), pytest.raises(interlock.Mismatch, match="2"):
        other.semaphore("a", 3).acquire(1)
    for permits in (3, 1, 2, 300):
        with other.semaphore("a", permits), pytest.raises(interlock.Mismatch, match=str(permits)):
            one.semaphore("a", permits + 1).acquire(1)
        grants = [one.semaphore("a", permits).acquire(1) for _ in range(permits)]
        assert other.semaphore("a", permits).try_acquire() is None
        for grant in grants:
            grant.release()


@pytest.mark.parametrize("permits", [65_024, 2**32 + 1, 10**18, 10**30])
def test_more_permits_than_an_object_can_have(connect: Connect, permits: int) -> None:
    """An error that says how many there can be; never another number of permits."""
    with pytest.raises(interlock.LimitExceeded, match="permits"):
        connect().semaphore("a", permits).acquire(1)


@pytest.mark.parametrize(
    "session", ["", "x", "#1", "#00000000000000f", "0x00000000000001", "1_1_1_1_1_1_1_1_", "f" * 17]
)
def test_whoever_is_no_session_here_has_nothing_here(connect: Connect, session: str) -> None:
    """Ids of other shapes, ranks' for example, are nobody: nothing is found, nothing is taken away, no error."""
    one = connect()
    with one.lock("a"), one.semaphore("b", 2):
        for name, machine in (("a", LOCK), ("b", SEMAPHORE)):
            assert one.store.transact(name, machine, Evict(session)).state == "gone"
            assert one.store.transact(name, machine, Leave(Ticket(session, 1))).state == "gone"
        assert one.lock("a").locked()


class Interrupted(BaseException):
    """What a handler of these tests raises."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """Runs something in a signal's handler after some seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def after(seconds: float, act: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: act())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield after
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("after_s", [0.01, 0.2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_a_handler_that_raises_ends_the_wait(
    connect: Connect, alarm: Callable[..., None], after_s: float, error: type[BaseException]
) -> None:
    """At the seat and further on: the error comes out, and nothing of the wait stays behind."""

    def act() -> None:
        raise error

    one, other = connect(), connect()
    lock = other.lock("a")
    lock.acquire().release()
    with one.lock("a"):
        alarm(after_s, act)
        with pytest.raises(error):
            lock.acquire(20)
        assert not lock.waiters()
    assert one.lock("a").try_acquire() is not None


def test_a_handler_that_returns_does_not_end_the_wait(connect: Connect, alarm: Callable[..., None]) -> None:
    """It may use the very lock that is waited for, and open and close sessions meanwhile."""
    one, other, seen = connect(), connect(), []
    lock = other.lock("a")
    lock.acquire().release()
    grant = one.lock("a").acquire()

    def act() -> None:
        seen.append(lock.try_acquire())
        seen.append(lock.locked())
        with interlock.connect(one.url) as third, third.lock("b"):
            pass
        grant.release()

    alarm(0.02, act)
    lock.acquire(20).release()
    assert seen == [None, True]


def test_an_exception_between_the_seat_and_the_script_leaves_no_ticket(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes just when a long wait goes from C to Python does not leave a ticket that nobody waits for."""

    def interrupted(self: Lock, serial: int, timeout: float | None) -> interlock.Grant:
        raise KeyboardInterrupt

    one, other, third = connect(), connect(), connect()
    lock = other.lock("a")
    lock.acquire().release()
    with one.lock("a"):
        monkeypatch.setattr(Lock, "_go_on", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(20)
        assert not lock.waiters()
        monkeypatch.undo()
    with third.lock("a", timeout=30):
        pass


def test_a_party_that_is_interrupted_does_not_count_as_arrived(
    url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception just when a late barrier goes from C to Python takes the arrival back: nobody passes early."""
    from interlock.shm.barrier import Barrier

    def interrupted(self: Barrier, timeout: float | None, late: bool = False) -> interlock.Arrival:
        raise KeyboardInterrupt

    def party() -> None:
        barrier = interlock.connect(url).barrier("a", 2)
        for _ in range(3):
            barrier.wait(20)
        signal.pause()

    with collected():
        pid = fork(party)
        barrier = connect().barrier("a", 2)
        for _ in range(3):
            barrier.wait(20)
        monkeypatch.setattr(Barrier, "_meet", interrupted)
        with pytest.raises(KeyboardInterrupt):
            barrier.wait(0.05)
        assert barrier.waiting == 0
        kill(pid)


def test_an_object_whose_remover_died_is_not_lost(connect: Connect) -> None:
    """Whoever was killed between closing an idle object and taking its name away holds up nobody."""
    one, other = connect(), connect()
    one.lock("a").acquire().release()
    one.event("e").clear()
    for name, machine in (("a", one.lock("a").machine), ("e", one.event("e").machine)):
        assert one.store.region(name, machine).retire()  # type: ignore[attr-defined]
    for session in (one, other):
        with session.lock("a", timeout=30):
            pass
        session.event("e").set()
        assert session.event("e").wait(30)


def test_whoever_only_looks_sees_the_object_that_has_the_name_now(connect: Connect, url: str) -> None:
    """An idle object was removed and made anew by another process: a look here is at the new one."""
    session = connect()
    event, lock = session.event("e"), session.lock("a")
    with lock:
        pass
    event.clear()
    assert not event.is_set()
    assert not lock.locked()

    def renew() -> None:
        store = open_store(url)
        assert store.retire("a", lock.machine)
        assert store.retire("e", event.machine)
        other = interlock.connect(url)
        other.event("e").set()
        other.lock("a").acquire()
        os._exit(0)

    assert wait(fork(renew)) == 0
    assert event.is_set()
    assert lock.locked()
    assert lock.acquire(30).recovered


def test_a_look_amid_the_work_of_others_is_a_record(connect: Connect, url: str) -> None:
    """Whatever others do meanwhile, what is read can be decoded, and never shows more holders than there can be."""

    def work() -> None:
        session = interlock.connect(url)
        sides = [session.rwlock("a").read(), session.rwlock("a").write(), session.semaphore("b", 2)]
        while True:
            for side in sides:
                with side:
                    pass

    with collected():
        session = connect()
        for _ in range(3):
            fork(work)
        until(lambda: session.store.read("a") and session.store.read("b"))
        for _ in range(1500):
            for name, machine in (("a", LOCK), ("b", SEMAPHORE)):
                stored = session.store.read(name)
                assert stored is not None
                machine.decode(stored.text)


def test_a_ticket_of_a_seat_can_be_asked_for_again(connect: Connect) -> None:
    """The store answers for what is held at a seat as for any other ticket."""
    session = connect()
    lock = session.lock("a")
    lock.acquire().release()
    with lock as grant:
        found = session.store.transact("a", LOCK, Acquire(grant._ticket))
        assert (found.state, found.value[0]) == ("granted", grant.token)


def mapped(url: str) -> int:
    """How many objects of a scope this process has mapped."""
    with open("/proc/self/maps") as maps:
        return sum(folder(url).name in line for line in maps)


def test_any_number_of_names(connect: Connect, url: str) -> None:
    """Objects that nobody uses any more are unmapped; what is held stays held, and an old lock can be used again."""
    session, other = connect(), connect()
    held = [session.lock(f"held {number}") for number in range(20)]
    first = session.lock("first")
    for lock in [*held, first, first]:
        lock.acquire()
        if lock is first:
            lock.release()
    for number in range(3000):
        with session.lock(f"lock {number}"):
            pass
        session.once(f"once {number}", lambda: 1)
    assert mapped(url) < 2500
    with first:
        assert other.lock("first").try_acquire() is None
    assert [other.lock(lock.name).try_acquire() for lock in held] == [None] * len(held)
    for lock in held:
        lock.release()
    assert all(other.lock(lock.name).try_acquire() for lock in held)
