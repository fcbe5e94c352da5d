"""What ends a command early: a lost hold, a lost session, and the time limit of the job."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import interlock
from cli.command import Command, let_go
from interlock import completion, schedulers
from interlock.cli import child, watch
from interlock.cli import run as runs
from interlock.cli.watch import ASK_S, GRACE_S, MARGIN_S, Watch
from patience import until


class Clock:
    """A clock that only the test moves, and a scheduler that tells the end of the job by it and counts who asks."""

    def __init__(self, end: float | None) -> None:
        self.now = 0.0
        self.end = end
        self.asked = 0

    def time(self) -> float:
        return self.now

    monotonic = time

    def ends_at(self) -> float | None:
        self.asked += 1
        return self.end


def watching(
    session: interlock.Session, monkeypatch: pytest.MonkeyPatch, end: float | None, grace: float | None
) -> tuple[Watch, Clock]:
    """The watch over a hold in a job that ends at some time."""
    clock = Clock(end)
    monkeypatch.setattr(watch, "time", clock)
    monkeypatch.setattr(schedulers, "ends_at", clock.ends_at)
    return Watch(session, "job", session.lock("job").acquire(), grace), clock


def test_the_command_is_stopped_in_time(session: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to stop when just the grace is left, not before, and is to be gone a little before the end."""
    watched, clock = watching(session, monkeypatch, end=1000, grace=50)
    for clock.now in (0.0, 500.0, 949.9):
        assert watched.must_stop() is None
    clock.now = 950.0
    stop = watched.must_stop()
    assert stop is not None
    assert stop.within_s == 50 - MARGIN_S
    assert "50 s" in stop.why


def test_a_grace_shorter_than_the_margin_kills_at_once(
    session: interlock.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves no time to end gets none."""
    watched, clock = watching(session, monkeypatch, end=100, grace=1)
    assert watched.must_stop() is None
    clock.now = 99.5
    stop = watched.must_stop()
    assert stop is not None
    assert stop.within_s == 0


def test_a_limit_that_was_extended_counts_at_once(session: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler is asked once more at the moment of acting, so a job that got more time goes on."""
    watched, clock = watching(session, monkeypatch, end=60, grace=50)
    assert watched.must_stop() is None
    clock.now, clock.end = 10.0, 600.0
    assert watched.must_stop() is None
    clock.now = 550.0
    assert watched.must_stop() is not None


def test_a_limit_that_was_shortened_is_noticed(session: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new limit is known a minute later, and the scheduler is asked no more often than that."""
    watched, clock = watching(session, monkeypatch, end=100_000, grace=50)
    for second in range(10 * int(ASK_S)):
        clock.now = float(second)
        assert watched.must_stop() is None
    assert clock.asked == 10
    clock.end = clock.now + 60
    clock.now += ASK_S
    assert watched.must_stop() is not None


@pytest.mark.parametrize(("end", "grace", "asks"), [(None, 50, 2), (10, None, 0)])
def test_without_a_limit_or_a_grace_nothing_stops_it(
    session: interlock.Session, monkeypatch: pytest.MonkeyPatch, end: float | None, grace: float | None, asks: int
) -> None:
    """Where no scheduler tells a limit the command runs on; and who asks for no grace asks no scheduler."""
    watched, clock = watching(session, monkeypatch, end, grace)
    for clock.now in (0.0, 20.0, ASK_S):
        assert watched.must_stop() is None
    assert clock.asked == asks


def test_a_lost_session_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a session lives by its heartbeat, one that can no longer be written ends the command, though the record
    still names the holder: others may take the name soon."""
    with interlock.connect(f"file://{tmp_path}/space?primitive=claims", ttl_s=0.5) as session:
        watched = Watch(session, "job", session.lock("job").acquire(), None)
        assert watched.must_stop() is None
        (tmp_path / "space" / "sessions" / session.id).unlink()
        until(watched.lost)
        stop = watched.must_stop()
        assert stop is not None
        assert stop.within_s == GRACE_S


def test_a_run_whose_session_is_lost_has_failed(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is stopped, and whatever its exit code, the run ends with an error and leaves no completion."""
    monkeypatch.setattr(child, "LOOK_S", 0.01)
    monkeypatch.setattr(runs, "_leave_on_termination", lambda: None)
    monkeypatch.setattr(interlock.Session, "lost", True)
    stoppable = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done")
    with pytest.raises(interlock.SessionLost, match="'job' was lost"):
        runs.run(runs.Request("job", stoppable, url=file_url, skip_if_done=True))
    assert completion.find(interlock.stores.open_store(file_url), "job") is None


TRAINING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("who", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_who_was_asked_to_end_is_not_done(command: Command, file_url: str, who: signal.Signals) -> None:
    """A training that writes a checkpoint and exits with 0 on a signal, whichever it is, is not recorded as done."""
    program = TRAINING.replace("SIGTERM", who.name)
    run = command.start("run", "job", "--skip-if-done", "--", sys.executable, "-c", program)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(who)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "does not count as done" in said
    assert completion.find(interlock.stores.open_store(file_url), "job") is None


def test_a_signal_that_is_not_passed_on_does_not_undo_the_work(command: Command, file_url: str) -> None:
    """A run that was merely stopped for a while, and ended well, is done; it is on record who it was."""
    run = command.hold("job", "--skip-if-done")
    run.send_signal(signal.SIGSTOP)
    run.send_signal(signal.SIGCONT)
    assert let_go(run)[0] == 0
    done = completion.find(interlock.stores.open_store(file_url), "job")
    assert done is not None
    assert (done.exit_code, done.holder.pid, done.holder.host) == (0, run.pid, os.uname().nodename)
