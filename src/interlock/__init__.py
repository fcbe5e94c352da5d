"""Locks, barriers, once-only work, caches, atomic files and handles for parallel Python jobs.

    import interlock

    with interlock.lock("index"):
        ...

    with interlock.connect("file:///scratch/me/locks") as session:
        with session.lock("index", timeout=60) as grant:
            ...

Every object is a name in a scope; the scope is a URL (`connect`). The functions of this module with the names of
`Session`'s methods use one default session of the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from interlock.world import World, world

if TYPE_CHECKING:
    from interlock import aio, errors, files, handles
    from interlock.cache import Cache
    from interlock.errors import (
        AcquireTimeout,
        BrokenBarrier,
        Deadlock,
        InterlockError,
        InvalidName,
        LimitExceeded,
        Mismatch,
        NotHeld,
        OutcomeUnknown,
        OwnerDied,
        RecordInvalid,
        RemoteError,
        SessionLost,
        Superseded,
        Unavailable,
        UnsafeMount,
    )
    from interlock.handles import PerProcess
    from interlock.holder import Holder
    from interlock.keys import key
    from interlock.objects import Arrival, Barrier, Event, Fence, Grant, Lock, Once, RWLock, Semaphore
    from interlock.session import Session, connect

__version__ = "0.1.0"

__all__ = [
    "AcquireTimeout", "Arrival", "Barrier", "BrokenBarrier", "Cache", "Deadlock", "Event", "Fence", "Grant", "Holder",
    "InterlockError", "InvalidName", "LimitExceeded", "Lock", "Mismatch", "NotHeld", "Once", "OutcomeUnknown",
    "OwnerDied", "PerProcess", "RWLock", "RecordInvalid", "RemoteError", "Semaphore", "Session", "SessionLost",
    "Superseded", "Unavailable", "UnsafeMount", "World", "aio", "barrier", "connect", "errors", "event", "fence",
    "files", "first", "handles", "key", "lock", "once", "rwlock", "semaphore", "single", "world",
]  # fmt: skip

_MODULES = ("aio", "errors", "files", "handles")
_HOMES = ("errors", "keys", "holder", "session", "objects", "cache", "handles")


def __getattr__(name: str) -> Any:
    """Load a name when it is first used, so that programs which only may need a lock start as fast as without one."""
    if name in _MODULES:
        return importlib.import_module(f"interlock.{name}")
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"interlock.{home}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module 'interlock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _default() -> Session:
    from interlock.session import default

    return default()


def lock(name: str, *, timeout: float | None = None, reentrant: bool = False) -> Lock:
    """`Session.lock` on the default session."""
    return _default().lock(name, timeout=timeout, reentrant=reentrant)


def rwlock(name: str, *, timeout: float | None = None) -> RWLock:
    """`Session.rwlock` on the default session."""
    return _default().rwlock(name, timeout=timeout)


def semaphore(name: str, permits: int, *, timeout: float | None = None) -> Semaphore:
    """`Session.semaphore` on the default session."""
    return _default().semaphore(name, permits, timeout=timeout)


def barrier(name: str, parties: int | None = None) -> Barrier:
    """`Session.barrier` on the default session."""
    return _default().barrier(name, parties)


def event(name: str) -> Event:
    """`Session.event` on the default session."""
    return _default().event(name)


def once(name: str, fn: Callable[[], Any], **options: Any) -> Any:
    """`Session.once` on the default session."""
    return _default().once(name, fn, **options)


def fence(name: str, **options: Any) -> Fence:
    """`Session.fence` on the default session."""
    return _default().fence(name, **options)


def single(name: str, fn: Callable[[], Any], **options: Any) -> Any:
    """`Session.single` on the default session."""
    return _default().single(name, fn, **options)


def first(name: str = "init", **options: Any) -> AbstractContextManager[bool]:
    """`Session.first` on the default session."""
    return _default().first(name, **options)
