"""A participant on a host: a program that does one deed after another for the test, and can be killed or stopped.

The module is both ends: `Party` starts and asks, `main` is what runs on the host. A deed is a function below whose
first parameter is the session; arguments and results cross as lines of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interlock
from interlock import files

PATIENCE_S = 30.0


class Party:
    """One process on a host, with a session of its own; `options` are those of `interlock.connect`."""

    def __init__(self, host: Any, url: str, **options: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._program = host.start(
            sys.executable, "-m", "two_hosts.party", url, json.dumps(options), env=environment, stderr=None
        )
        self.answer()

    def ask(self, deed: Callable[..., Any], *args: Any) -> None:
        """Have it do something, and go on without the answer."""
        self._program.stdin.write(json.dumps([deed.__name__, *args]) + "\n")
        self._program.stdin.flush()

    def answers(self, within_s: float) -> bool:
        """Whether there is an answer, or comes within that time."""
        return bool(select.select([self._program.stdout], [], [], within_s)[0])

    def answer(self) -> Any:
        """The result of what was asked, or its error."""
        assert self.answers(PATIENCE_S), "no answer"
        line = self._program.stdout.readline()
        assert line, "it has ended"
        result, kind, text = json.loads(line)
        if kind:
            raise getattr(interlock, kind, RuntimeError)(text)
        return result

    def call(self, deed: Callable[..., Any], *args: Any) -> Any:
        """Ask and wait for the answer."""
        self.ask(deed, *args)
        return self.answer()

    def kill(self) -> None:
        """End it where it stands."""
        self._program.kill()
        self._program.wait(PATIENCE_S)

    def stop(self) -> None:
        """Stop it alone; its host goes on."""
        self._program.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._program.send_signal(signal.SIGCONT)


# -- deeds


def take(session: interlock.Session, name: str, timeout: float | None = None) -> tuple[int, bool]:
    """Acquire the lock of a name and keep it; token and recovered."""
    grant = session.lock(name).acquire(timeout)
    return grant.token, grant.recovered


def take_after_a_stop(session: interlock.Session, name: str) -> int:
    """Acquire the lock of a name, stopped until somebody lets this process go on just before that is written."""
    link = os.link

    def stop(*args: Any, **options: Any) -> None:
        os.link = link
        os.kill(os.getpid(), signal.SIGSTOP)
        link(*args, **options)

    os.link = stop
    return session.lock(name).acquire().token


def give(session: interlock.Session, name: str) -> None:
    """Release the lock of a name."""
    session.lock(name).release()


def lost(session: interlock.Session) -> bool:
    """Whether the session is lost."""
    return session.lost


def count_up(session: interlock.Session, path: str, name: str, until: int) -> list[tuple[int, int]]:
    """Raise the number in a file under a lock until it is that large; what was read and the token, each time.

    The number is read in one step and written in another, which is whole or not at all.
    """
    done = []
    while True:
        with session.lock(name, timeout=PATIENCE_S) as grant, open(path, "r+b", buffering=0) as file:
            number = int(file.read())
            if number >= until:
                return done
            done.append((number, grant.token))
            os.pwrite(file.fileno(), b"%08d" % (number + 1), 0)


def share(session: interlock.Session, name: str) -> bool:
    """Take the read side and keep it, if it is free."""
    return session.rwlock(name).read().try_acquire() is not None


def unshare(session: interlock.Session, name: str) -> None:
    """Give the read side back."""
    session.rwlock(name).read().release()


def write(session: interlock.Session, name: str) -> bool:
    """Take the write side and keep it, if it is free."""
    return session.rwlock(name).write().try_acquire() is not None


def permit(session: interlock.Session, name: str, permits: int) -> bool:
    """Take a permit and keep it, if one is free."""
    return session.semaphore(name, permits).try_acquire() is not None


def return_permit(session: interlock.Session, name: str, permits: int) -> None:
    """Give the permit back."""
    session.semaphore(name, permits).release()


def meet(session: interlock.Session, name: str, parties: int) -> tuple[int, int]:
    """Wait at a barrier; generation and place."""
    arrival = session.barrier(name, parties).wait(PATIENCE_S)
    return arrival.generation, arrival.index


def compute(session: interlock.Session, name: str, path: str) -> str:
    """Compute a value once; everybody who really does adds its host to a file."""
    return str(session.once(name, lambda: _sign(path), timeout=PATIENCE_S))


def build(session: interlock.Session, name: str, path: str) -> str:
    """Compute a value in one rank for all."""
    return str(session.single(name, lambda: _sign(path), timeout=PATIENCE_S))


def _sign(path: str) -> str:
    with Path(path).open("a") as file:
        file.write("x")
    time.sleep(0.1)
    return f"{os.uname().nodename} {os.getpid()}"


def wait_for(session: interlock.Session, name: str) -> bool:
    """Wait for an event."""
    return session.event(name).wait(PATIENCE_S)


def tell(session: interlock.Session, name: str) -> None:
    """Set an event."""
    session.event(name).set()


def replace(session: interlock.Session, path: str, text: str, token: int) -> None:
    """Replace a file under a token."""
    draft = f"{path}.{os.uname().nodename}"
    Path(draft).write_text(text)
    files.fenced_replace(draft, path, token=token)


def put(session: interlock.Session, path: str, text: str, name: str) -> int:
    """Take a lock, replace a file under its token, keep the lock; the token."""
    grant = session.lock(name).acquire(PATIENCE_S)
    replace(session, path, text, grant.token)
    return grant.token


# -- the program


def main(url: str, options: str) -> None:
    """Answer that the session has begun, then do what is asked."""
    with interlock.connect(url, **json.loads(options)) as session:
        print(json.dumps([session.id, None, ""]), flush=True)
        for line in sys.stdin:
            deed, *args = json.loads(line)
            try:
                answer = [globals()[deed](session, *args), None, ""]
            except Exception as error:
                answer = [None, type(error).__name__, str(error)]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
