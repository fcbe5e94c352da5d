"""Event: a flag across sessions, whose waiters are let go even if it is cleared before they wake."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

import interlock
from contract.conftest import Thread, standing
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def test_everybody_sees_the_flag(connect: Connect) -> None:
    """What one session sets or clears, another sees, and waiting for a set flag returns at once."""
    one, two = connect().event("a"), connect().event("a")
    one.clear()
    assert not two.is_set()
    one.set()
    one.set()
    assert two.is_set()
    assert two.wait()
    assert two.wait(0)
    two.clear()
    assert not one.is_set()


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_timeout_is_false_and_leaves_nothing(connect: Connect, timeout: float) -> None:
    """Time running out is no error but False, and the waiter is gone from the record."""
    session = connect()
    session.event("a").clear()
    assert session.event("a").wait(timeout) is False
    assert standing(session, "a") == 0


def test_setting_lets_all_waiters_go(connect: Connect, background: Background) -> None:
    """Every waiter of every session is let go by one `set`, though the flag is cleared at once after it."""
    setter, sessions = connect().event("a"), [connect() for _ in range(3)]
    threads = [background(session.event("a").wait, 20) for session in sessions for _ in range(2)]
    for session in sessions:
        until(lambda session=session: standing(session, "a") == 2)
    setter.set()
    setter.clear()
    assert [thread.result() for thread in threads] == [True] * 6
    assert not setter.is_set()
    assert [standing(session, "a") for session in sessions] == [0, 0, 0]


def test_the_flag_outlives_its_setter(connect: Connect) -> None:
    """An event stays set when the session that set it is closed."""
    one, two = connect(), connect()
    one.event("a").set()
    one.close()
    assert two.event("a").is_set()


def test_an_interrupt_while_waiting_leaves_nothing_behind(connect: Connect, background: Background) -> None:
    """KeyboardInterrupt comes out of `wait`, and the waiter is gone from the record."""
    session, main = connect(), threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: standing(session, "a"))
        signal.pthread_kill(main, signal.SIGINT)

    session.event("b").set()
    background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.event("a").wait()
    assert standing(session, "a") == 0
