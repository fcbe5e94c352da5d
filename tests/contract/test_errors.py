"""Errors and reports: what someone who waits is told, and that every error survives a pickle."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import pickle
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock
from contract.conftest import Thread, standing
from interlock import _script
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]

ERRORS = sorted(
    (kind for kind in vars(interlock.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    key=lambda kind: kind.__name__,
)


def test_a_timeout_says_whom_it_waited_for(connect: Connect, background: Background) -> None:
    """`AcquireTimeout` has the holder, how many were ahead and the seconds, and advises where to look further."""
    one, two, three = connect(note="tuning run"), connect(), connect()
    grant = one.lock("a").acquire()
    ahead = background(two.lock("a").acquire)
    until(lambda: standing(two, "a"))
    with pytest.raises(interlock.AcquireTimeout) as caught:
        three.lock("a").acquire(0)
    error = caught.value
    assert [(who.pid, who.note) for who in error.holders] == [(os.getpid(), "tuning run")]
    assert error.position == 2
    assert error.waited >= 0
    assert (error.name, error.scope) == ("a", one.url)
    assert error.definite
    assert isinstance(error, TimeoutError)
    for words in ("tuning run", str(os.getpid()), "since", "2 ahead", f"interlock --url {one.url} show 'a'"):
        assert words in str(error)
    grant.release()
    ahead.result().release()


def test_the_seconds_waited_are_told(connect: Connect) -> None:
    """`waited` is at least the timeout."""
    one, two = connect(), connect()
    with one.lock("a"), pytest.raises(interlock.AcquireTimeout) as caught:
        two.lock("a").acquire(0.05)
    assert caught.value.waited >= 0.05
    assert [who.pid for who in caught.value.holders] == [os.getpid()]


def test_what_the_system_refuses_is_no_timeout(tmp_path: Path) -> None:
    """No directory, or no room: the error is the system's, with its number, whatever the timeout; nobody is blamed."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    with (
        interlock.connect(f"file://{tmp_path}/file/space") as none,
        interlock.connect(f"file://{tmp_path}/full") as full,
    ):
        assert full.lock("old").acquire(0)
        for session, number in ((none, errno.ENOTDIR), (full, errno.EFBIG)):
            for take in (
                lambda session=session: session.lock("new").acquire(0),
                lambda session=session: session.lock("new").acquire(1e-9),
                lambda session=session: session.once("once", lambda: 1, timeout=0),
            ):
                with no_room(), pytest.raises(interlock.Unavailable) as caught:
                    take()
                assert caught.value.errno == number


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_real_timeout_survives_a_pickle(connect: Connect) -> None:
    """An error as users get it comes back with message, holder and every other attribute."""
    one, two = connect(note="the holder"), connect()
    with one.lock("a"), pytest.raises(interlock.AcquireTimeout) as caught:
        two.lock("a").acquire(0)
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value)
    assert vars(back) == vars(caught.value)
    assert back.holders[0].note == "the holder"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_a_pickle(kind: type[interlock.InterlockError]) -> None:
    """Type, message, attributes and definiteness are the same after the trip."""
    error = kind("what happened", name="a", scope="memory://s", position=3, missing=[1], cycle=("a", "b"), waited=0.5)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == "what happened"
    assert vars(back) == vars(error)
    assert back.definite == error.definite == (kind.__name__ not in ("OutcomeUnknown", "SessionLost"))


def test_a_broken_barrier_survives_a_pickle(connect: Connect) -> None:
    """`missing` and `reason` come back."""
    with pytest.raises(interlock.BrokenBarrier) as caught:
        connect(rank=1, size=3).barrier("a").wait(0)
    back = pickle.loads(pickle.dumps(caught.value))
    assert list(back.missing) == [0, 2]
    assert back.reason == caught.value.reason


def test_a_long_wait_is_reported(
    connect: Connect,
    background: Background,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the patience is over the log says for what and whom one waits, then again with gaps that grow."""
    monkeypatch.setattr(_script, "PATIENCE_S", 0.05)
    one, two, three = connect(note="tuning run"), connect(), connect()
    grant = one.lock("a").acquire()
    ahead = background(two.lock("a").acquire)
    until(lambda: standing(two, "a"))

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "interlock"]

    with caplog.at_level(logging.WARNING, "interlock"):
        waiting = background(three.lock("a").acquire)
        until(lambda: standing(three, "a"))
        until(lambda: len(told()) >= 6)
        grant.release()
        ahead.result().release()
        waiting.result().release()
    first = next(record.getMessage() for record in told() if "tuning run" in record.getMessage())
    assert re.search(r"waiting for <Lock 'a' in .*> for \d+ ms: held by .*tuning run, holding it for \d+ ms", first)
    assert any("2 ahead" in record.getMessage() for record in told())
    assert all(record.levelno == logging.WARNING for record in told())


def test_reports_come_ever_more_rarely(
    connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gap between two reports of one wait is at least twice as long as the one before the first."""
    monkeypatch.setattr(_script, "PATIENCE_S", 0.04)
    one, two = connect(), connect()
    with one.lock("a"), caplog.at_level(logging.WARNING, "interlock"), pytest.raises(interlock.AcquireTimeout):
        two.lock("a").acquire(0.7)
    times = [record.created for record in caplog.records if record.name == "interlock"]
    assert 2 <= len(times) <= 4
    for earlier, (begin, end) in enumerate(itertools.pairwise(times), 1):
        assert end - begin >= 0.9 * 0.04 * 2**earlier
