"""Another process that takes part: it runs one function after another for the test, and can be killed or stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import interlock

PATIENCE_S = 20.0
METHODS = ("fork", "spawn", "forkserver")


class Peer:
    """A child process with a session of its own in the scope of `url`."""

    def __init__(self, url: str, method: str = "fork", **options: Any) -> None:
        context = multiprocessing.get_context(method)
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, url, options), daemon=True)
        self.process.start()
        theirs.close()
        self.pid: int = self.call(pid)

    def ask(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the peer run ``function(session, *args)``, and go on without its answer."""
        self._pipe.send((function, args))

    def answer(self, within_s: float = PATIENCE_S) -> Any:
        """The result of what was asked, or its error."""
        if not self._pipe.poll(within_s):
            raise TimeoutError(f"no answer from process {self.process.pid} within {within_s} s")
        result, error = self._pipe.recv()
        if error is not None:
            raise error
        return result

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Ask and wait for the answer."""
        self.ask(function, *args)
        return self.answer()

    def signal(self, number: int) -> None:
        """Send a signal to the peer alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it where it stands and reap it."""
        self.signal(signal.SIGKILL)
        self.process.join()

    def end(self) -> None:
        """Make sure that it is gone, whatever state it is in."""
        self.process.kill()
        self.process.join()
        self._pipe.close()


def _serve(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    session = interlock.connect(url, **options)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(session, *args), None))
        except BaseException as error:
            pipe.send((None, error))


def pid(session: interlock.Session) -> int:
    """The peer's process; its session has begun."""
    return session.holder.pid


def take(session: interlock.Session, name: str, timeout: float | None = None) -> tuple[int, bool]:
    """Acquire the lock of a name and keep it; returns token and recovered."""
    grant = session.lock(name).acquire(timeout)
    return grant.token, grant.recovered


def give(session: interlock.Session, name: str) -> None:
    """Release the lock of a name."""
    session.lock(name).release()


def free(session: interlock.Session, name: str) -> bool:
    """Whether the lock of a name can be had at once; gives it back."""
    lock = session.lock(name)
    if lock.try_acquire() is None:
        return False
    lock.release()
    return True
