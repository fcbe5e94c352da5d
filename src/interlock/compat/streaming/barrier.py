"""`SharedBarrier`: the barrier of its name, for as many processes as it is called with. Layer: see the package."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from operator import index
from typing import Any
from urllib.parse import quote

from interlock.errors import Mismatch, Unavailable
from interlock.files.beside import space_of
from interlock.inspection import look
from interlock.session import Session, connect

SCOPE = "shm://streaming"
_PASSING = (errno.ENOSPC, errno.EDQUOT)  # reasons that may be gone when the next process looks


def _shown(name: str, told: Callable[[int, int], int]) -> Any:
    """A number that the original keeps in shared memory: worked out of how many have come and how many are to."""

    def show(barrier: SharedBarrier) -> int:
        return barrier._set[name] if name in barrier._set else told(*barrier._gathering())

    def put(barrier: SharedBarrier, value: int) -> None:
        barrier._set[name] = value

    return property(show, put)


class SharedBarrier:
    """A barrier that processes of one host pass together, as often as they like."""

    num_enter = _shown("num_enter", lambda arrived, parties: arrived)
    num_exit = _shown("num_exit", lambda arrived, parties: parties if arrived else -1)
    flag = _shown("flag", lambda arrived, parties: not arrived)

    def __init__(self, filelock_path: str, shm_name: str) -> None:
        self.filelock_path = filelock_path
        self.shm_name = shm_name
        self._session = _session_for(filelock_path)
        self._barrier = self._session.barrier(shm_name, 1)
        self._set: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.filelock_path, self.shm_name)

    def __call__(self, num_procs: int, timeout: float | None = None) -> None:
        """Enter, wait until `num_procs` processes have entered, and go on with them; a thread counts as a process.

        Args:   timeout: seconds; None waits for ever. A time-out breaks the barrier for everybody.
        Raises: BrokenBarrier: a party died, ended, timed out or called for another number; names who is missing.
                Mismatch: others wait who called for another number; the barrier is broken for them (both definite).
        Crash:  the others are told within a second, if the party that died took part in the last round or waits.
        Cost:   a round in shared memory, once the same processes have met.
        """
        barrier, self._set = self._barrier, {}
        if barrier.parties != num_procs:
            barrier = self._barrier = self._session.barrier(self.shm_name, index(num_procs))
        self._session.joins(self.shm_name, barrier.machine)
        try:
            barrier.wait(timeout)
        except Mismatch:
            barrier.abort(f"a process called it for {barrier.parties} processes, others for another number")
            raise

    def reset(self) -> None:
        """Make a broken barrier whole again; whoever waits gets BrokenBarrier."""
        self._barrier.reset()

    def _gathering(self) -> tuple[int, int]:
        """How many have come to this round, and how many are to come; takes nothing."""
        parties = look(self._session.store, self.shm_name).detail.get("parties", 0)
        return self._barrier.waiting, parties


def _session_for(filelock_path: str) -> Session:
    """This process's session in the scope of all barriers, or beside a path where this system has no such scope."""
    try:
        return _session(SCOPE)
    except Unavailable as error:
        if getattr(error, "errno", None) in _PASSING:
            raise
    path = os.path.abspath(filelock_path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return _session("file://" + quote(os.fsencode(space_of(path))))


@functools.cache
def _session(url: str) -> Session:
    """Parties are processes, not ranks: a rank has several."""
    return connect(url, rank=0, size=1)
