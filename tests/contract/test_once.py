"""Once: one computes, everybody gets the same value or the same error, and work given up is taken over."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract.conftest import Thread, standing
from interlock.abc import Evict
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def fail() -> None:
    """Raises what a computation raises."""
    raise LookupError("no such key", 7)


def test_one_computes_and_all_get_the_value(connect: Connect, background: Background) -> None:
    """Of many threads and sessions exactly one calls the function, and all return its value."""
    sessions, calls = [connect() for _ in range(3)], []

    def compute() -> dict[str, Any]:
        calls.append(threading.get_ident())
        return {"size": 3, "parts": (1, b"two", None)}

    threads = [background(session.once, "a", compute) for session in sessions for _ in range(3)]
    assert [thread.result() for thread in threads] == [{"size": 3, "parts": (1, b"two", None)}] * 9
    assert len(calls) == 1


def test_the_value_stays(connect: Connect) -> None:
    """A later session gets the value without computing, also when the one that computed is gone."""
    one, two = connect(), connect()
    one.once("a", lambda: 1)
    one.close()
    assert two.once("a", lambda: 2, timeout=0) == 1


@pytest.mark.parametrize("value", [None, 0, "", False, [], (), {}, b"", 1.5, {1: "one"}, {"a": [(1, {"b": b"\0"})]}])
def test_values_come_back_as_they_were(connect: Connect, value: Any) -> None:
    """Everybody gets the value with its types, the one that computed included; a falsy one is a value too."""
    one, two = connect(), connect()
    for got in (one.once("a", lambda: value), two.once("a", pytest.fail)):
        assert got == value
        assert type(got) is type(value)


def test_all_get_the_error(connect: Connect) -> None:
    """The function's error is raised on everybody with type, arguments and the original traceback as a note."""
    one, two = connect(), connect()
    with pytest.raises(LookupError) as own:
        one.once("a", fail)
    with pytest.raises(LookupError) as told:
        two.once("a", pytest.fail)
    assert own.value.args == told.value.args == ("no such key", 7)
    assert "in fail" in "".join(told.value.__notes__)


def test_an_error_stays_until_retry(connect: Connect) -> None:
    """With ``retry`` a failed computation is computed again, and its value replaces the error."""
    one, two = connect(), connect()
    with pytest.raises(LookupError):
        one.once("a", fail)
    assert two.once("a", lambda: 5, retry=True) == 5
    assert one.once("a", fail, retry=True) == 5


def test_forget_lets_it_be_computed_again(connect: Connect) -> None:
    """After `forget` the next comer computes."""
    session = connect()
    session.once("a", lambda: 1)
    interlock.Once(session, "a").forget()
    assert session.once("a", lambda: 2) == 2


def test_a_value_that_cannot_travel_is_an_error_for_all(connect: Connect) -> None:
    """An object is no value; the one that computed and everybody else are told, and nobody hangs."""
    one, two = connect(), connect()
    for session in (one, two):
        with pytest.raises(TypeError, match="cannot travel"):
            session.once("a", object, timeout=10)


def test_a_worker_that_is_interrupted_is_replaced(connect: Connect, background: Background) -> None:
    """When the computing thread is thrown out by a BaseException, the next waiting one computes."""
    one, two = connect(), connect()
    began, go = threading.Event(), threading.Event()

    def interrupted() -> None:
        began.set()
        go.wait(20)
        raise SystemExit(3)

    worker = background(one.once, "a", interrupted)
    began.wait(20)
    waiting = background(two.once, "a", lambda: "taken over")
    until(lambda: standing(two, "a"))
    go.set()
    with pytest.raises(SystemExit):
        worker.result()
    assert waiting.result() == "taken over"
    assert one.once("a", pytest.fail) == "taken over"


def test_a_timeout_names_the_one_that_computes(connect: Connect, background: Background) -> None:
    """Who cannot wait for the computation is told who computes; the computation goes on."""
    one, two = connect(note="the worker"), connect()
    began, go = threading.Event(), threading.Event()

    def compute() -> int:
        began.set()
        go.wait(20)
        return 1

    worker = background(one.once, "a", compute)
    began.wait(20)
    for timeout in (0, 0.02):
        with pytest.raises(interlock.AcquireTimeout, match="the worker") as caught:
            two.once("a", pytest.fail, timeout=timeout)
        assert [holder.note for holder in caught.value.holders] == ["the worker"]
    assert standing(two, "a") == 0
    go.set()
    assert worker.result() == 1


def test_nothing_is_left_behind(connect: Connect) -> None:
    """After value and error no ticket stands in the record."""
    session = connect()
    session.once("a", lambda: 1)
    with pytest.raises(LookupError):
        session.once("b", fail)
    assert standing(session, "a") == standing(session, "b") == 0


def test_a_result_that_is_not_kept_goes_to_those_who_wait(connect: Connect, background: Background) -> None:
    """All who wait get the one error; whoever comes later computes anew, and no record stays behind."""
    one, two, three = connect(), connect(), connect()
    began, go = threading.Event(), threading.Event()

    def slow_failure() -> None:
        began.set()
        go.wait(20)
        raise LookupError("no such key")

    def run(session: interlock.Session, fn: Callable[[], Any]) -> Any:
        return interlock.Once(session, "a", keep=False).run(fn)

    worker = background(run, one, slow_failure)
    began.wait(20)
    waiting = [background(run, session, pytest.fail) for session in (two, three)]
    until(lambda: standing(two, "a") and standing(three, "a"))
    go.set()
    for thread in (worker, *waiting):
        with pytest.raises(LookupError, match="no such key"):
            thread.result()
    assert one.store.read("a") is None
    assert run(two, lambda: 5) == 5
    assert one.store.read("a") is None


def test_without_takeover_the_death_of_a_worker_is_everybodys_error(connect: Connect, background: Background) -> None:
    """Who waited and who comes later get `OwnerDied`, which names the dead, until somebody asks to retry."""
    one, two = connect(note="the one that dies"), connect()
    began, go = threading.Event(), threading.Event()
    worker = background(lambda: one.once("a", lambda: (began.set(), go.wait(20))))
    began.wait(20)
    waiting = background(lambda: two.once("a", pytest.fail, takeover=False))
    until(lambda: standing(two, "a"))
    one.store.transact("a", interlock.Once.machine, Evict(one.id))
    with pytest.raises(interlock.OwnerDied, match="the one that dies"):
        waiting.result()
    with pytest.raises(interlock.OwnerDied):
        two.once("a", pytest.fail)
    assert two.once("a", lambda: 5, retry=True) == 5
    go.set()
    with contextlib.suppress(interlock.SessionLost):
        worker.result()


def test_whoever_would_keep_a_result_gets_one_that_is_not_kept(connect: Connect, background: Background) -> None:
    """Those who wait may have asked otherwise than the one who computes; nobody's claim stays in the record."""
    one, two = connect(), connect()
    began, go = threading.Event(), threading.Event()
    worker = background(interlock.Once(one, "a", keep=False).run, lambda: (began.set(), go.wait(20))[1])
    began.wait(20)
    waiting = background(two.once, "a", pytest.fail)
    until(lambda: standing(two, "a"))
    go.set()
    assert [worker.result(), waiting.result()] == [True, True]
    assert one.store.read("a") is None


def test_an_error_of_the_system_keeps_its_files(connect: Connect) -> None:
    """Everybody is told which file it was about, or which two."""
    one, two = connect(), connect()
    for name, fn in (("a", lambda: os.stat("/no/genome")), ("b", lambda: os.rename("/no/a", "/no/b"))):
        with pytest.raises(FileNotFoundError) as own:
            one.once(name, fn)
        with pytest.raises(FileNotFoundError) as told:
            two.once(name, pytest.fail)
        assert str(told.value) == str(own.value)
        assert told.value.filename == own.value.filename
