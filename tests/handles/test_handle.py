"""`PerProcess`: opened once, by whom, how often, and what goes through pickle."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from handles.resource import CLOSED, DESTROYED, OPEN, Resource, events, finish, openers
from interlock.errors import Deadlock, LimitExceeded
from interlock.handles import PerProcess, limit


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Where resources write."""
    return str(tmp_path / "log")


def get_all(handle: PerProcess[Any], threads: int) -> list[Any]:
    """What that many threads get that ask at the same moment."""
    start = Barrier(threads)

    def get() -> Any:
        start.wait()
        return handle.get()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(get) for _ in range(threads)]]


def test_nothing_is_opened_before_the_first_get(log: str) -> None:
    """Neither by making a handle nor by copying it."""
    handle = PerProcess(Resource, log)
    copy.deepcopy(pickle.loads(pickle.dumps(handle)))
    assert events(log) == []
    assert handle.get() is handle.get()
    assert events(log) == [OPEN]


def test_threads_that_ask_at_once_share_one(log: str) -> None:
    """While one opens, the others wait for it; the opener is slow enough for all to arrive."""
    arrived = Barrier(8)

    def opener() -> Resource:
        with pytest.raises(threading.BrokenBarrierError):
            arrived.wait(0.2)  # nobody else comes here
        return Resource(log)

    resources = get_all(PerProcess(opener), 8)
    assert {id(resource) for resource in resources} == {id(resources[0])}
    assert events(log) == [OPEN]


def test_each_thread_has_its_own_with_per_thread(log: str) -> None:
    """Eight threads open eight, and the second call of a thread opens none."""
    handle = PerProcess(Resource, log, per_thread=True)
    start = Barrier(8)

    def get() -> Resource:
        start.wait()
        assert handle.get() is handle.get()
        return handle.get()

    with ThreadPoolExecutor(8) as pool:
        resources = [future.result() for future in [pool.submit(get) for _ in range(8)]]
    assert len({id(resource) for resource in resources}) == 8


def test_a_thread_takes_its_resource_with_it(log: str) -> None:
    """It is closed when the thread has ended, and a later thread never meets it."""
    handle = PerProcess(Resource, log, per_thread=True)
    for number in range(1, 4):
        thread = Thread(target=handle.get)
        thread.start()
        thread.join()
        assert events(log).count(OPEN) == events(log).count(CLOSED) == number


def test_an_opener_that_raises_leaves_nothing(log: str) -> None:
    """The error arrives as it is, saying where from; the next call tries again."""
    failures = iter([OSError("no file"), ValueError("no database")])

    def opener() -> Resource:
        for failure in failures:
            raise failure
        return Resource(log)

    handle = PerProcess(opener)
    for kind in (OSError, ValueError):
        with pytest.raises(kind) as caught:
            handle.get()
        assert "opener" in caught.value.__notes__[0]
    assert handle.get() is handle.get()
    assert events(log) == [OPEN]


def test_who_waits_for_a_failing_opener_tries_himself(log: str) -> None:
    """One thread gets the error of its own call, the others a resource."""
    first = Event()

    def opener() -> Resource:
        if not first.is_set():
            first.set()
            raise OSError("not yet")
        return Resource(log)

    handle = PerProcess(opener)
    start = Barrier(4)

    def get() -> object:
        start.wait()
        try:
            return handle.get()
        except OSError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(get) for _ in range(4)]]
    assert sorted(type(result).__name__ for result in results) == ["OSError", "Resource", "Resource", "Resource"]
    assert events(log) == [OPEN]


def test_close_closes_in_all_threads_and_get_opens_again(log: str) -> None:
    """The resources of two threads, one of them alive."""
    handle = PerProcess(Resource, log, per_thread=True)
    opened, closed = Event(), Event()

    def other() -> None:
        handle.get()
        opened.set()
        closed.wait()
        handle.get()

    thread = Thread(target=other)
    thread.start()
    opened.wait()
    with handle:
        handle.get()
    assert (events(log).count(OPEN), events(log).count(CLOSED)) == (2, 2)
    closed.set()
    thread.join()
    handle.get()
    assert events(log).count(OPEN) == 4


def test_close_raises_what_closing_raises_after_closing_everything(log: str) -> None:
    """One error as it is, several together; the resources are gone all the same."""

    def fail(resource: Resource) -> None:
        resource.note(CLOSED)
        raise OSError("disk full")

    handle = PerProcess(Resource, log, close=fail, per_thread=True)
    handle.get()
    with pytest.raises(OSError, match="disk full"):
        handle.close()
    handle.close()
    opened, ended = Event(), Event()
    thread = Thread(target=lambda: (handle.get(), opened.set(), ended.wait()))
    thread.start()
    opened.wait()
    handle.get()
    with pytest.raises(ExceptionGroup):
        handle.close()
    ended.set()
    thread.join()
    assert events(log).count(CLOSED) == 3


def test_a_resource_without_close_is_let_go() -> None:
    """None, dictionaries and modules may be resources."""
    for value in (None, {}, threading):
        handle = PerProcess(lambda value=value: value)
        assert handle.get() is value
        handle.close()


def test_a_handle_that_is_forgotten_closes_what_nobody_uses(log: str) -> None:
    """What is in somebody's hands stays open there."""
    resource = PerProcess(Resource, log).get()
    assert events(log) == [OPEN]
    handle = PerProcess(Resource, log)
    handle.get()
    del handle
    assert events(log) == [OPEN, OPEN, CLOSED, DESTROYED]
    resource.note("used")


# -- pickle


def test_everything_goes_through_pickle(log: str) -> None:
    """Arguments, keyword arguments, also those named like parameters, the close function and `per_thread`."""
    handle = PerProcess(Resource, log, 1, close=finish, per_thread=True, opener="x", mode="r", flags={"a": [1]})
    data = pickle.dumps(handle)
    recipe = repr(handle)
    del handle
    gc.collect()
    rebuilt = pickle.loads(data)
    assert repr(rebuilt) == recipe
    resource = rebuilt.get()
    assert resource.args == (1,)
    assert resource.kwargs == {"opener": "x", "mode": "r", "flags": {"a": [1]}}
    assert len({id(resource), *map(id, get_all(rebuilt, 2))}) == 3
    rebuilt.close()
    assert events(log).count("finished") == 3


def test_copies_in_a_process_are_one_handle() -> None:
    """So a process opens once, however many copies it gets."""
    handle = PerProcess(dict)
    assert pickle.loads(pickle.dumps(handle)) is handle
    assert copy.deepcopy([handle])[0] is handle


def use(handle: PerProcess[Resource]) -> int:
    """A task of a pool, which brings its own copy of the handle."""
    return handle.get().pid


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_workers_of_a_pool_open_once_for_all_their_tasks(log: str, method: str) -> None:
    """Each task unpickles a copy of its own and drops it; the resource stays, and is closed when the worker exits."""
    handle = PerProcess(Resource, log, mode="r")
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        pids = list(pool.map(use, [handle] * 20))
    assert sorted(openers(log)) == sorted(set(pids))
    assert events(log).count(CLOSED) == len(set(pids))


class Local:
    """Has an opener that is reached through it."""

    @staticmethod
    def opener() -> int:
        """An opener within a class."""
        return 1


def test_an_opener_that_cannot_be_pickled_is_named() -> None:
    """A lambda, a local function, a local class as the opener or the close function."""

    class Hidden:
        pass

    def local() -> None:
        pass

    for opener in (lambda: 1, local, Hidden):
        with pytest.raises(pickle.PicklingError, match=f"opener under the name .*{opener.__qualname__}"):
            pickle.dumps(PerProcess(opener))
    with pytest.raises(pickle.PicklingError, match="close under the name"):
        pickle.dumps(PerProcess(dict, close=lambda resource: None))
    for good in (Local.opener, functools.partial(int, "7"), dict):
        assert pickle.loads(pickle.dumps(PerProcess(good))).get() == good()


# -- the limit


def test_beyond_the_limit_the_least_recently_used_is_closed(log: str) -> None:
    """A use makes it recent; the closed one is opened again when it is needed."""
    limit(2)
    first, second, third = (PerProcess(Resource, log, name) for name in "abc")
    for handle in (first, second):
        handle.get()
    first.get()
    third.get()
    assert events(log) == [OPEN, OPEN, CLOSED, DESTROYED, OPEN]
    assert first.get().args == ("a",)
    assert events(log).count(OPEN) == 3
    assert second.get().args == ("b",)
    assert events(log).count(OPEN) == 4


def test_a_resource_in_use_is_not_closed_to_make_room(log: str) -> None:
    """The next older one goes; if all are in use, the error says how many there are, and nothing has changed."""
    limit(2)
    handles = [PerProcess(Resource, log, number) for number in range(3)]
    oldest = handles[0].get()
    handles[1].get()
    newest = handles[2].get()
    assert events(log).count(CLOSED) == 1
    with pytest.raises(LimitExceeded, match=r"2 resources are open in process .* all are in use"):
        handles[1].get()
    assert (handles[0].get(), handles[2].get()) == (oldest, newest)
    del newest
    handles[1].get()
    assert events(log).count(CLOSED) == 2


class Cyclic:
    """Refers to itself, as many real resources do."""

    def __init__(self) -> None:
        self.me = self
        self.closed = False

    def close(self) -> None:
        """Closed."""
        self.closed = True


def test_a_resource_that_refers_to_itself_is_not_in_use_by_that() -> None:
    """What counts is the references that came after it was opened."""
    limit(1)
    handle = PerProcess(Cyclic)
    handle.get()
    PerProcess(dict).get()
    with pytest.raises(LimitExceeded):
        resource, _ = handle.get(), PerProcess(dict).get()
    resource = handle.get()
    assert not resource.closed


def test_the_limit_holds_while_many_threads_open(log: str) -> None:
    """Sixteen threads over eight handles and room for four: never more than four at once, and each read is right."""
    limit(4)
    handles = [PerProcess(Resource, log, number) for number in range(8)]
    busy = threading.Semaphore(3)  # so that one is always idle

    def read(number: int) -> None:
        for n in range(number, number + 40):
            with busy:
                assert handles[n % 8].get().args == (n % 8,)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(16)))
    opened = most = 0
    for event in events(log):
        opened += {OPEN: 1, CLOSED: -1}.get(event, 0)
        most = max(most, opened)
    assert most == 4


def test_a_limit_below_one_is_refused() -> None:
    """Nothing could ever be opened."""
    with pytest.raises(ValueError, match="at least one"):
        limit(0)


# -- reentrancy


def test_an_opener_may_use_other_handles(log: str) -> None:
    """Also when they have to be opened first."""
    inner = PerProcess(Resource, log, "inner")
    outer = PerProcess(lambda: (inner.get(), "outer"))
    assert outer.get()[0] is inner.get()


def test_an_opener_that_needs_itself_is_a_deadlock() -> None:
    """Said at once, and the handle is not spoilt: the error is the opener's, which it may handle."""
    answers: list[str] = []

    def opener() -> str:
        with pytest.raises(Deadlock, match="opener"):
            handle.get()
        answers.append("told")
        return "open"

    handle: PerProcess[str] = PerProcess(opener)
    assert handle.get() == "open"
    assert answers == ["told"]


def test_two_openers_that_need_each_other_are_a_deadlock() -> None:
    """In two threads, each of which has begun: one of them is told, and neither hangs."""
    both = Barrier(2)

    def opener(other: int) -> str:
        both.wait()
        try:
            return handles[other].get()
        except Deadlock:
            return "told"

    handles: list[PerProcess[str]] = [PerProcess(opener, 1), PerProcess(opener, 0)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda handle: handle.get(), handles))
    assert results == ["told", "told"]


def test_a_signal_handler_may_get_while_the_same_thread_opens(log: str) -> None:
    """Another handle is opened there; the one that is being opened cannot be had, and nobody hangs."""
    other = PerProcess(Resource, log)
    seen: list[object] = []

    def on_signal(number: int, frame: object) -> None:
        seen.append(other.get())
        with pytest.raises(Deadlock):
            handle.get()

    def opener() -> str:
        signal.raise_signal(signal.SIGUSR1)
        return "open"

    handle = PerProcess(opener)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        assert handle.get() == "open"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [other.get()]


def test_a_storm_of_signals_does_no_harm(log: str) -> None:
    """The handler opens, uses and closes between any two lines of the same thread's own calls."""
    limit(2)
    handles = [PerProcess(Resource, log, number) for number in range(4)]
    calls = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal calls
        calls = n = calls + 1  # the next signal may come before this handler ends
        try:
            assert handles[n % 4].get().args == (n % 4,)
            handles[(n + 1) % 4].close()
        except (Deadlock, LimitExceeded):
            pass

    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        n = 0
        while calls < 200:
            n += 1
            assert handles[n % 4].get().args == (n % 4,)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for handle in handles:
        handle.close()
    assert events(log).count(OPEN) == events(log).count(CLOSED)
