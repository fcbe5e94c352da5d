"""The locks that are measured beside ours, all with the same face: ``acquire()``, ``release()`` and ``with``.

A peer that is not installed is left out, and the report says so. Each is used as its manual suggests for waiting
as long as it takes; portalocker is told to block in the kernel, which is its fastest way.
"""

from __future__ import annotations

import fcntl
import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import interlock

FILE, MEMORY, SHM = "interlock file://", "interlock memory://", "interlock shm://"
FILELOCK, PORTALOCKER, FASTENERS = "filelock", "portalocker", "fasteners"
FLOCK, MULTIPROCESSING, THREADING = "raw flock", "multiprocessing", "threading"
POSIX, FASTIPC = "posix_ipc", "fastipc"
_LIBRARIES = (
    FILELOCK,
    PORTALOCKER,
    FASTENERS,
    "diskcache",
    "joblib",
    "lmdb",
    "copairs",
    "posix_ipc",
    "fastipc",
    "mpi4py",
)


class Peer(NamedTuple):
    """`prepare` runs once, in the parent, with an empty directory; `attach` makes each process's object from it."""

    name: str
    prepare: Callable[[str], Any]
    attach: Callable[[Any], Any]


class Flock:
    """``fcntl.flock`` on a descriptor that stays open, blocking in the kernel; `kind` is shared or exclusive."""

    def __init__(self, path: str, kind: int = fcntl.LOCK_EX) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.acquire = partial(fcntl.flock, fd, kind)
        self.release = partial(fcntl.flock, fd, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Sides(NamedTuple):
    """A reader-writer lock: two callables that give something to use in ``with``."""

    read: Callable[[], AbstractContextManager[Any]]
    write: Callable[[], AbstractContextManager[Any]]


def portalocker_lock(path: str) -> Any:
    """portalocker's lock, waiting in the kernel."""
    import portalocker

    return portalocker.Lock(path, flags=portalocker.LockFlags.EXCLUSIVE)


def filelock_lock(path: str) -> Any:
    """filelock's lock."""
    import filelock

    return filelock.FileLock(path)


def fasteners_lock(path: str) -> Any:
    """fasteners' lock."""
    import fasteners

    return fasteners.InterProcessLock(path)


def beside(directory: str) -> str:
    return os.path.join(directory, "lock")


def _interlock_lock(url: str) -> Any:
    return interlock.connect(url).lock("bench")


_ALL = (
    Peer(FILE, beside, _interlock_lock),
    Peer(MEMORY, lambda directory: "memory://bench", _interlock_lock),
    Peer(FILELOCK, beside, filelock_lock),
    Peer(PORTALOCKER, beside, portalocker_lock),
    Peer(FASTENERS, beside, fasteners_lock),
    Peer(FLOCK, beside, Flock),
    Peer(MULTIPROCESSING, lambda directory: multiprocessing.get_context("fork").Lock(), lambda lock: lock),
    Peer(THREADING, lambda directory: None, lambda nothing: threading.Lock()),
)


def _interlock_sides(url: str) -> Sides:
    lock = interlock.connect(url).rwlock("bench")
    reading, writing = lock.read(), lock.write()
    return Sides(lambda: reading, lambda: writing)


def _filelock_sides(path: str) -> Sides:
    import filelock

    lock = filelock.ReadWriteLock(path, is_singleton=False)
    return Sides(lock.read_lock, lock.write_lock)


def _fasteners_sides(path: str) -> Sides:
    import fasteners

    lock = fasteners.InterProcessReaderWriterLock(path)
    return Sides(lock.read_lock, lock.write_lock)


def _flock_sides(path: str) -> Sides:
    reading, writing = Flock(path, fcntl.LOCK_SH), Flock(path)
    return Sides(lambda: reading, lambda: writing)


_SIDES = (
    Peer(FILE, beside, _interlock_sides),
    Peer(FILELOCK, beside, _filelock_sides),
    Peer(FASTENERS, beside, _fasteners_sides),
    Peer(FLOCK, beside, _flock_sides),
)


def missing() -> list[str]:
    """The libraries that are not installed."""
    return [library for library in _LIBRARIES if importlib.util.find_spec(library) is None]


def installed(peers: tuple[Peer, ...]) -> list[Peer]:
    """Those of the peers that can be measured here; a peer's name begins with its library's."""
    absent = missing()
    return [peer for peer in peers if peer.name.split()[0] not in absent]


def locks() -> list[Peer]:
    """Every lock, those that stay within one process included."""
    return installed(_ALL)


def shared_locks() -> list[Peer]:
    """The locks that processes can share."""
    return [peer for peer in locks() if peer.name not in (MEMORY, THREADING)]


def reader_writer_locks() -> list[Peer]:
    """The reader-writer locks; each attaches as `Sides`."""
    return installed(_SIDES)
