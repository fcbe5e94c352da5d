"""Running a command while a name is held.

The order that makes a done work never be done again: look for the completion, take the name, look again, run, publish
the completion, and only then give the name back. A command that got a signal has done no work that counts, whatever
its exit code: many a training writes a checkpoint then and exits with 0, on SIGUSR1 as well as on SIGTERM.

A job that its scheduler has requeued finds the name held by its own earlier run. Nobody else does its work, so it does
not give up, but waits until that run is proved to have ended.

Exit codes: the command's own; `TEMPFAIL` when it was skipped because the name is held, `HELD` likewise if that was to
count as a failure, 0 when it was skipped because it is done. Layer: under `cli.main`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple, NoReturn, TypeVar

import click

import interlock
from interlock import completion, inspection
from interlock.cli import child
from interlock.cli.watch import Watch
from interlock.errors import AcquireTimeout, SessionLost
from interlock.holder import Holder, plain
from interlock.objects import Grant, Lock
from interlock.session import Session

TEMPFAIL = 75  # EX_TEMPFAIL of sysexits.h: try again later
HELD = 1
TURN_S = 2.0  # how long a requeued job waits for its earlier run before it looks who else may have come

Obtained = TypeVar("Obtained")


class Request(NamedTuple):
    """What ``interlock run`` was asked."""

    name: str
    command: tuple[str, ...]
    url: str | None = None
    shared: bool = False
    permits: int | None = None
    timeout: float | None = None
    if_held: str = "wait"
    skip_if_done: bool = False
    pidfile: str | None = None
    grace: float | None = None
    note: str = ""


def run(request: Request) -> int:
    """Hold the name, run the command, and return the exit code."""
    logging.basicConfig(format="interlock: %(message)s")  # the library's lines about long waits
    _leave_on_termination()
    with interlock.connect(request.url, note=request.note) as session:
        _ask_the_scheduler(session)
        if _is_done(request, session):
            return 0
        try:
            with _held(request, session) as grant:
                return 0 if _is_done(request, session) else _run_held(request, session, grant)
        except AcquireTimeout as late:
            if late.scope == session.url and not late.position:
                raise  # nobody was seen to hold it: its record could not be reached
            _say(str(late))
            return HELD if request.if_held == "fail" else TEMPFAIL


@contextlib.contextmanager
def _held(request: Request, session: Session) -> Iterator[Grant]:
    """Hold the name and, where one is asked for, the lock file that shell scripts respect."""
    timeout = request.timeout if request.if_held == "wait" else 0
    end = None if timeout is None else time.monotonic() + timeout
    with contextlib.ExitStack() as held:
        grant = _patiently(_lock(request, session).acquire, timeout, session.holder)
        held.callback(grant.release)
        if request.pidfile is not None:
            from interlock.pidfile import PidFile

            file = PidFile(request.pidfile)
            _patiently(file.acquire, None if end is None else max(end - time.monotonic(), 0), session.holder)
            held.callback(file.release)
        yield grant


def _patiently(acquire: Callable[[float | None], Obtained], timeout: float | None, me: Holder) -> Obtained:
    """What `acquire` obtains; as long as an earlier run of a requeued job is in the way, that is waited for."""
    told = False
    while True:
        try:
            return acquire(max(timeout or 0, TURN_S) if told else timeout)
        except AcquireTimeout as late:
            earlier = next((holder for holder in late.holders if _earlier_run(holder, me)), None)
            if earlier is None:
                raise
            if not told:
                _say(f"{late.name!r} is held by this job before it was requeued, {earlier.describe()}: waiting for it")
            told = True


def _earlier_run(holder: Holder, me: Holder) -> bool:
    theirs, mine = holder.job, me.job
    if theirs is None or mine is None:
        return False
    return theirs.restart < mine.restart and theirs == mine._replace(restart=theirs.restart)


def _ask_the_scheduler(session: Session) -> None:
    """Let the scheduler's word count too, for those in the way whom the store cannot prove dead."""
    alive = session.alive
    session.alive = lambda session: inspection.informed(alive(session))  # type: ignore[method-assign]


def _lock(request: Request, session: Session) -> Lock:
    if request.permits is not None:
        return session.semaphore(request.name, request.permits)
    lock = session.rwlock(request.name)
    return lock.read() if request.shared else lock.write()


def _is_done(request: Request, session: Session) -> bool:
    done = completion.find(session.store, request.name) if request.skip_if_done else None
    if done is not None:
        marker = request.name + completion.SUFFIX
        _say(
            f"skipped: {request.name!r} was {done.describe()}. To forget that: interlock break {marker!r} --reason ..."
        )
    return done is not None


def _run_held(request: Request, session: Session, grant: Grant) -> int:
    if grant.recovered:
        _say(f"an earlier holder of {request.name!r} died; what it was at work on may be half done")
    environment = {
        **os.environ,
        "INTERLOCK_NAME": request.name,
        "INTERLOCK_TOKEN": str(grant.token),
        "INTERLOCK_URL": session.url,
    }
    watch = Watch(session, request.name, grant, request.grace)
    end = child.run(request.command, environment, watch.must_stop)
    if watch.lost():
        why = f"the hold of {request.name!r} was lost while the command ran"
        raise SessionLost(why, name=request.name, scope=session.url)
    if end.code == 0 and request.skip_if_done:
        if end.asked:
            _say(f"{request.name!r} does not count as done: the command got a signal and may have ended early")
        else:
            completion.publish(session, request.name, grant, end.code)
    return end.code


def _leave_on_termination() -> None:
    """Let SIGTERM and SIGHUP leave the queue in order, as Ctrl-C does; a hangup that is ignored (nohup) stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    click.echo(f"interlock: {plain(text)}", err=True)
