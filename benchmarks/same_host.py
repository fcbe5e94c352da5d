"""What is measured beside interlock on one host, where processes share memory; the limit is limit.c.

Objects with the faces of `peers`: ``acquire()``, ``release()`` and ``with``. A reader-writer lock attaches as a `Pair`
of them, a barrier has ``wait()``. Whatever is left in shared memory is removed when the measuring ends.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_SH
from functools import partial
from typing import Any, NamedTuple

import limit
from peers import (
    FASTIPC,
    FILELOCK,
    FLOCK,
    MULTIPROCESSING,
    POSIX,
    SHM,
    THREADING,
    Flock,
    Peer,
    beside,
    filelock_lock,
    installed,
)

import interlock
from interlock.shm.store import PLACE, home

FUTEX, ROBUST, WORD = "limit: futex", "limit: robust mutex", "limit: one word"
RLOCK = "multiprocessing RLock"
PERMITS = 4
_fork = multiprocessing.get_context("fork")


class Pair(NamedTuple):
    """The two sides of a reader-writer lock."""

    read: Any
    write: Any


class Turn:
    """Two callables as a lock, for peers that have no object for it."""

    def __init__(self, acquire: Callable[[], Any], release: Callable[[], Any]) -> None:
        self.acquire = acquire
        self.release = release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def scope(directory: str) -> str:
    """The URL of a scope in shared memory, named after a directory that is nobody else's."""
    name = "-".join(directory.split(os.sep)[-2:])
    atexit.register(shutil.rmtree, os.path.join(home(), name), ignore_errors=True)
    return f"shm://{name}"


def _posix(value: int, directory: str) -> Any:
    import posix_ipc

    semaphore = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=value)
    atexit.register(semaphore.unlink)
    return semaphore


def _fastipc_name(directory: str) -> str:
    name = os.path.basename(directory)
    for kind in ("mutex", "sema"):
        atexit.register(_unlink, os.path.join(PLACE, f"__pyfastipc_{kind}_{name}"))
    return name


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _fastipc_mutex(name: str) -> Any:
    from fastipc.sync import NamedMutex

    return NamedMutex(name)


def _fastipc_semaphore(name: str) -> Any:
    from fastipc.sync import NamedSemaphore

    semaphore = NamedSemaphore(name, PERMITS)
    return Turn(semaphore.wait, semaphore.post1)


def _robust(directory: str) -> Any:
    memory = limit.memory()
    limit.module().Robust(memory).prepare()
    return memory


def _fresh(directory: str) -> Any:
    return limit.memory()


def _limited(name: str, kind: str, prepare: Callable[[str], Any], *arguments: int) -> Peer:
    return Peer(name, prepare, lambda memory: getattr(limit.module(), kind)(memory, *arguments))


def _native(make: Callable[[interlock.Session], Any]) -> Peer:
    return Peer(SHM, scope, lambda url: make(interlock.connect(url)))


def _inherited(name: str, make: Callable[[], Any]) -> Peer:
    """A peer whose object is made in the parent and comes to the others by fork."""
    return Peer(name, lambda directory: make(), lambda made: made)


def present(*peers: Peer) -> list[Peer]:
    """Those that can be measured here."""
    known = [peer for peer in peers if not peer.name.startswith("limit") or limit.module() is not None]
    return installed(tuple(known))


def shared_locks() -> list[Peer]:
    """The locks that processes can share."""
    return present(
        _native(lambda session: session.lock("bench")),
        _limited(FUTEX, "Futex", _fresh),
        _limited(ROBUST, "Robust", _robust),
        _inherited(MULTIPROCESSING, _fork.Lock),
        Peer(POSIX, partial(_posix, 1), lambda semaphore: semaphore),
        Peer(FASTIPC, _fastipc_name, _fastipc_mutex),
        Peer(FILELOCK, beside, filelock_lock),
    )


def locks() -> list[Peer]:
    """Every lock, also those that stay within one process or one thread."""
    return [*shared_locks(), _inherited(RLOCK, _fork.RLock), _inherited(THREADING, threading.Lock)]


def semaphores() -> list[Peer]:
    """Semaphores of `PERMITS` permits."""
    return present(
        _native(lambda session: session.semaphore("bench", PERMITS)),
        _inherited(MULTIPROCESSING, partial(_fork.Semaphore, PERMITS)),
        Peer(POSIX, partial(_posix, PERMITS), lambda semaphore: semaphore),
        Peer(FASTIPC, _fastipc_name, _fastipc_semaphore),
        _inherited(THREADING, partial(threading.Semaphore, PERMITS)),
    )


def _native_sides(session: interlock.Session) -> Pair:
    lock = session.rwlock("bench")
    return Pair(lock.read(), lock.write())


def _filelock_sides(path: str) -> Pair:
    import filelock

    lock = filelock.ReadWriteLock(path, is_singleton=False)
    return Pair(Turn(lock.acquire_read, lock.release), Turn(lock.acquire_write, lock.release))


def reader_writer_locks() -> list[Peer]:
    """The reader-writer locks; each attaches as a `Pair`."""
    return present(
        _native(_native_sides),
        Peer(WORD, _fresh, lambda memory: Pair(*(limit.module().Side(memory, write) for write in (0, 1)))),
        Peer(FLOCK, beside, lambda path: Pair(Flock(path, LOCK_SH), Flock(path))),
        Peer(FILELOCK, beside, _filelock_sides),
    )
