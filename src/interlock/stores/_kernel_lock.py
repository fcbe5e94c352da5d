"""Kernel locks on an open file: the one place that knows which call takes them.

A *primitive* locks a whole open file exclusively, without waiting, and tests without taking whether anybody holds it.
A space pins one primitive in its settings, because two primitives do not exclude each other:

- ``ofd``: open-file-description record locks (Linux); belong to the descriptor, excluded across a cluster wherever
  POSIX locks are; the default on Linux;
- ``flock``: BSD locks (Linux, BSD, macOS); belong to the descriptor; the default elsewhere on POSIX;
- ``lockf``: POSIX record locks; belong to the process and vanish when it closes *any* descriptor of the file;
- ``msvcrt``: Windows byte-range locks.

All of them end with the process, whatever ends it. A descriptor inherited over ``fork`` keeps an ``ofd`` or ``flock``
lock alive, so whoever forks closes its copies in the child. Sources: fcntl(2), flock(2).
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_YIELDS = 16  # attempts that only let others run, before sleeping between attempts
_SHORTEST_SLEEP_S, _LONGEST_SLEEP_S = 0.00002, 0.002


class Primitive(NamedTuple):
    """One way to lock an open file. `held_by_other` takes nothing; `per_process` locks do not exclude threads."""

    name: str
    try_lock: Callable[[int], bool]
    unlock: Callable[[int], None]
    held_by_other: Callable[[int], bool]
    lock: Callable[[int], None] | None = None  # waits in the kernel, woken at once, without a deadline
    per_process: bool = False


def acquire(primitive: Primitive, fd: int, deadline: float | None = None) -> bool:
    """Take the lock, waiting until `deadline` (monotonic); False if time ran out.

    Locks guard a few microseconds of work, so the wait yields first. Then it sleeps: in the kernel where no deadline
    has to be kept, else briefly between attempts, because a blocking call could not keep one if the owner is stopped.
    """
    try_lock = primitive.try_lock
    for _ in range(_YIELDS):
        if try_lock(fd):
            return True
        _yield()
    if deadline is None and primitive.lock is not None:
        primitive.lock(fd)
        return True
    pause = _SHORTEST_SLEEP_S
    while not try_lock(fd):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.1, _LONGEST_SLEEP_S)
    return True


_yield: Callable[[], object] = getattr(os, "sched_yield", None) or (lambda: time.sleep(0))


if sys.platform == "win32":
    import msvcrt

    def _msvcrt_try(fd: int) -> bool:
        os.lseek(fd, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _msvcrt_unlock(fd: int) -> None:
        os.lseek(fd, 1 << 30, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

    def _msvcrt_held(fd: int) -> bool:
        if not _msvcrt_try(fd):
            return True
        _msvcrt_unlock(fd)
        return False

    PRIMITIVES = {"msvcrt": Primitive("msvcrt", _msvcrt_try, _msvcrt_unlock, _msvcrt_held)}
    DEFAULT = "msvcrt"
else:
    import fcntl

    def _request(kind: int) -> bytes:
        """A ``struct flock`` for the whole file, as Linux lays it out on 64-bit systems."""
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)

    _WRITE, _UNLOCK = _request(fcntl.F_WRLCK), _request(fcntl.F_UNLCK)

    def _record_lock(name: str, set_lock: int, wait_lock: int, get_lock: int, per_process: bool) -> Primitive:
        control = fcntl.fcntl

        def try_lock(fd: int) -> bool:
            try:
                control(fd, set_lock, _WRITE)
            except OSError as error:
                if error.errno in _BUSY:
                    return False
                raise
            return True

        def lock(fd: int) -> None:
            try:
                control(fd, wait_lock, _WRITE)
            except OSError as error:  # threads look like one waiter to the kernel, which then sees a cycle
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(_LONGEST_SLEEP_S)
                lock(fd)

        def unlock(fd: int) -> None:
            control(fd, set_lock, _UNLOCK)

        def held_by_other(fd: int) -> bool:
            kind: int = struct.unpack_from("h", control(fd, get_lock, _WRITE))[0]
            return kind != fcntl.F_UNLCK

        return Primitive(name, try_lock, unlock, held_by_other, lock, per_process)

    def _flock_try(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _flock_wait(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _flock_unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    def _flock_held(fd: int) -> bool:
        """flock has no test; a shared lock taken for an instant disturbs no other test and no living owner."""
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return True
            raise
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False

    PRIMITIVES = {"flock": Primitive("flock", _flock_try, _flock_unlock, _flock_held, _flock_wait)}
    DEFAULT = "flock"
    if sys.platform == "linux":
        PRIMITIVES["lockf"] = _record_lock("lockf", fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK, per_process=True)
        if hasattr(fcntl, "F_OFD_SETLK"):
            PRIMITIVES["ofd"] = _record_lock(
                "ofd", fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK, per_process=False
            )
            DEFAULT = "ofd"
