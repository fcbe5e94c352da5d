"""Sessions without kernel locks: who is alive, who is dead, and who has to be watched."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock
from crash.processes import Board, collected, fork, kill, wait
from interlock.abc import Liveness
from interlock.holder import Holder
from interlock.stores import _heartbeat
from interlock.stores._heartbeat import Heartbeats
from interlock.stores._space import Space
from patience import until

TTL_S = 8.0


class Clock:
    """Both clocks of a process, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_heartbeat, "_clock", clock)
    monkeypatch.setattr(_heartbeat.time, "monotonic", clock)
    monkeypatch.setattr(_heartbeat.threading.Thread, "start", lambda self: None)  # hearts beat when the test says so
    return clock


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = Space(str(tmp_path / "space"), "claims", create=True)
    yield space
    space.close()


@pytest.fixture
def theirs(space: Space, clock: Clock) -> Heartbeats:
    """Another host's process, with one session: ``a``."""
    theirs = Heartbeats()
    theirs.begin(space, "a", dataclasses.replace(Holder.here(), host="node7", boot_id="another"), TTL_S)
    return theirs


@pytest.fixture
def look(space: Space) -> Callable[[], Liveness]:
    """What this process sees of session ``a``."""
    mine = Heartbeats()
    return lambda: mine.alive(space, "a")


def test_silence_counts_while_it_is_watched(
    theirs: Heartbeats, space: Space, clock: Clock, look: Callable[[], Liveness]
) -> None:
    """Dead is who gives no sign for the whole lease, looked at again and again; a sign begins the count anew."""
    for _ in range(3):
        look()
        clock.now += TTL_S / 8
    theirs._beat(space, "a", theirs._mine["a"])
    assert look().state == "alive"
    for _ in range(7):
        clock.now += TTL_S / 8
        assert look().state == "alive"
    clock.now += TTL_S / 8
    found = look()
    assert found.state == "dead"
    assert "no sign of life on node7 for 8 s" in found.proof
    assert found.status == "STALE"


def test_the_observers_own_absence_is_no_silence_of_others(
    theirs: Heartbeats, clock: Clock, look: Callable[[], Liveness]
) -> None:
    """Who slept for a day, or whose file server was away, begins to watch when it is back."""
    look()
    clock.now += 86400
    assert look().state != "dead"
    clock.now += 86400
    assert look().state != "dead"


def test_a_first_look_proves_nothing(theirs: Heartbeats, look: Callable[[], Liveness], clock: Clock) -> None:
    """A heart that beat just now by its own clock is alive; one that did so long ago is unknown, and says what is."""
    assert look().state == "alive"
    path = Path(theirs._space.path) / "sessions" / "a"  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[: -_heartbeat._LENGTH] + _heartbeat._BEAT % (b"beat", 1, 1.0, TTL_S))
    other = Heartbeats()
    found = other.alive(theirs._space, "a")  # type: ignore[arg-type]
    assert found.state == "unknown"
    assert "watched from here for 0 s; its lease is 8 s" in found.proof


def test_who_was_silent_for_its_lease_is_lost_and_says_so(theirs: Heartbeats, space: Space, clock: Clock) -> None:
    """Others may have taken what it held, so it neither goes on nor beats again, and every use is refused."""
    theirs.demand("a")
    clock.now += TTL_S
    with pytest.raises(interlock.SessionLost, match="no sign of life for 8 s"):
        theirs.demand("a")
    assert theirs.alive(space, "a").state == "dead"
    before = (Path(space.path) / "sessions" / "a").read_bytes()
    theirs._beat(space, "a", theirs._mine["a"])
    assert (Path(space.path) / "sessions" / "a").read_bytes() == before


def test_a_session_that_ended_in_order_is_dead_at_once(
    theirs: Heartbeats, space: Space, look: Callable[[], Liveness]
) -> None:
    """One that is not to be forgotten leaves word; one that is forgotten is unknown, never dead."""
    theirs.end(space, "a", forget=False)
    assert look() == Liveness("dead", "it was closed", look().holder)
    theirs.forget(space, "a")
    assert look().state == "unknown"


@pytest.mark.parametrize(
    "content", [b"", b"x", b"{}\n", b"\xff" * 500, b'{"host": "a", "pid": 1}\nbeat x at=1 ttl=2\n']
)
def test_a_damaged_file_is_unknown(space: Space, content: bytes) -> None:
    """Whatever lies there instead of a session's file proves nothing."""
    (Path(space.path) / "sessions" / "a").write_bytes(content)
    assert Heartbeats().alive(space, "a").state == "unknown"


@pytest.mark.parametrize("lease", [0.0, -1.0])
def test_a_lease_that_nobody_gives_proves_no_death(
    theirs: Heartbeats, space: Space, look: Callable[[], Liveness], lease: float
) -> None:
    """A heartbeat that is damaged in just its lease is damaged: nobody is dead by having been silent for no time."""
    path = Path(space.path) / "sessions" / "a"
    path.write_bytes(path.read_bytes()[: -_heartbeat._LENGTH] + _heartbeat._BEAT % (b"beat", 1, 1.0, lease))
    assert [look().state for _ in range(3)] == ["unknown"] * 3


def test_each_heart_beats_at_its_own_pace(tmp_path: Path) -> None:
    """A session with a long lease is not written as often as its neighbour with a short one."""
    url = f"file://{tmp_path}/space?primitive=claims"
    with interlock.connect(url, ttl_s=0.5) as quick, interlock.connect(url, ttl_s=600) as slow:
        before = beat(tmp_path, quick.id), beat(tmp_path, slow.id)
        for _ in range(3):
            last = beat(tmp_path, quick.id)
            until(lambda last=last: beat(tmp_path, quick.id) != last)
        assert beat(tmp_path, slow.id) == before[1]


def test_a_process_of_this_machine_is_judged_by_the_kernel(tmp_path: Path) -> None:
    """A killed one is dead without any lease, a stopped one keeps what it holds for longer than its lease."""
    url, board = f"file://{tmp_path}/space?primitive=claims", Board(2)

    def hold() -> None:
        interlock.connect(url, ttl_s=0.5).lock("a").acquire()
        board[0] += 1
        threading.Event().wait()

    with interlock.connect(url) as session, collected():
        holder = fork(hold)
        until(lambda: board[0] == 1)
        os.kill(holder, signal.SIGSTOP)
        with pytest.raises(interlock.AcquireTimeout):
            session.lock("a").acquire(timeout=1.2)
        kill(holder)
        assert session.lock("a").acquire(timeout=10).recovered


def test_hearts_beat_in_every_process_of_its_own(tmp_path: Path) -> None:
    """A forked child owns nothing and beats for itself; sessions outlive many leases, and the thread ends with them."""
    url, others = f"file://{tmp_path}/space?primitive=claims", hearts()
    session = interlock.connect(url, ttl_s=0.5)
    grant = session.lock("a").acquire()

    def child() -> None:
        with interlock.connect(url, ttl_s=0.5) as own:
            assert own.lock("a").try_acquire() is None
            own.lock("b").acquire()
            assert hearts() == 1

    with collected():
        assert wait(fork(child)) == 0
    before = beat(tmp_path, session.id)
    until(lambda: beat(tmp_path, session.id) != before)
    time.sleep(0.6)
    assert not session.lost
    grant.release()
    session.close()
    until(lambda: hearts() <= others)


def hearts() -> int:
    return sum(thread.name == "interlock heartbeat" for thread in threading.enumerate())


def beat(tmp_path: Path, session: str) -> bytes:
    return (tmp_path / "space" / "sessions" / session).read_bytes()[-_heartbeat._LENGTH :]


def test_a_session_whose_file_was_removed_is_lost(tmp_path: Path) -> None:
    """Nobody can see it live any more, so it cannot count on what it holds."""
    session = interlock.connect(f"file://{tmp_path}/space?primitive=claims", ttl_s=0.5)
    session.lock("a").acquire()
    (tmp_path / "space" / "sessions" / session.id).unlink()
    until(lambda: session.lost)
    with pytest.raises(interlock.SessionLost, match="removed"):
        session.lock("b").acquire()
    session.close()
