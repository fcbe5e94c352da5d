"""Running a command while a name is held.

The order that makes a done work never be done again: look for the completion, take the name, look again, run, publish
the completion, and only then give the name back.

Exit codes: the command's own; `TEMPFAIL` when it was skipped because the name is held, `HELD` likewise if that was to
count as a failure, 0 when it was skipped because it is done. Layer: under `cli.main`.
"""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import NamedTuple, NoReturn

import click

import interlock
from interlock import completion, inspection
from interlock.cli import child, display
from interlock.errors import AcquireTimeout
from interlock.objects import Grant, Lock
from interlock.session import Session

TEMPFAIL = 75  # EX_TEMPFAIL of sysexits.h: try again later
HELD = 1


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
    note: str = ""


def run(request: Request) -> int:
    """Hold the name, run the command, and return the exit code."""
    logging.basicConfig(format="interlock: %(message)s")  # the library's lines about long waits
    _leave_on_termination()
    with interlock.connect(request.url, note=request.note) as session:
        if _is_done(request, session):
            return 0
        try:
            with _lock(request, session) as grant:
                return 0 if _is_done(request, session) else _run_held(request, session, grant)
        except AcquireTimeout as late:
            if not late.position:
                raise  # nobody was seen to hold it: its record could not be reached
            _say(str(late))
            return HELD if request.if_held == "fail" else TEMPFAIL


def _lock(request: Request, session: Session) -> Lock:
    timeout = request.timeout if request.if_held == "wait" else 0
    if request.permits is not None:
        return session.semaphore(request.name, request.permits, timeout=timeout)
    lock = session.rwlock(request.name, timeout=timeout)
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

    def stands() -> bool:
        return inspection.holds(session.store, request.name, session.id, grant.token)

    environment = {
        **os.environ,
        "INTERLOCK_NAME": request.name,
        "INTERLOCK_TOKEN": str(grant.token),
        "INTERLOCK_URL": session.url,
    }
    code = child.run(request.command, environment, stands)
    if code == 0 and request.skip_if_done and stands():
        completion.publish(session, request.name, grant, code)
    return code


def _leave_on_termination() -> None:
    """Let SIGTERM and SIGHUP leave the queue in order, as Ctrl-C does; a hangup that is ignored (nohup) stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    click.echo(f"interlock: {display.plain(text)}", err=True)
