"""Session: one participant's identity and liveness in one scope, and the door to every object there.

A session begins when it is first used and ends when it is closed or its process dies. After ``fork`` the child's copy
owns nothing and begins a session of its own when it is used. Pickled, a session is its URL and its options: the process
that unpickles it gets a session of its own, one for all objects that came from the same one.

Layer: above the objects.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from interlock.abc import Evict, Liveness, Machine, Store, Ticket, label_of
from interlock.errors import InterlockError, NotHeld, SessionLost
from interlock.holder import Holder
from interlock.objects import Barrier, Event, Fence, Grant, Lock, Once, RWLock, Semaphore
from interlock.objects.fence import Group
from interlock.stores import open_store
from interlock.world import node_name, place, world

if TYPE_CHECKING:
    from interlock.cache import Cache
    from interlock.job import Roster

JOB = "job://"
FAREWELL_S = 1.0  # how long a closing session tries to reach a collective's record

_known: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()
_kept: dict[str, Session] = {}  # sessions that others count on live on, whether or not anybody here refers to them
_default: dict[str | None, Session] = {}
_choosing = threading.RLock()  # a signal's handler may want a session too


class Session:
    """One participant. Threads of a session exclude each other; two sessions are two participants."""

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        rank: int | None = None,
        size: int | None = None,
        note: str = "",
        ttl_s: float = 30.0,
        key: str | None = None,
        roster: Roster | None = None,
    ) -> None:
        self.store: Store = open_store(url)
        self._options: dict[str, Any] = {"rank": rank, "size": size, "note": note, "ttl_s": ttl_s, "roster": roster}
        self._roster = roster
        self.rank, self.size = place(rank, size)
        self.owner: Callable[[], int] = threading.get_ident
        self._key = key or os.urandom(8).hex()
        self._closed = False
        self._own_nothing()
        _known[self._key] = self

    def _own_nothing(self) -> None:
        self._id: str | None = None
        self._opening = threading.Lock()
        self._serials = itertools.count(1)
        self._holds: dict[str, list[Grant]] = {}
        self.seats: dict[tuple[str, bool], Any] = {}  # places kept at objects in shared memory
        self._collectives: dict[str, Machine] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rejoin, (self.store.url, self._options, self._key)

    def __repr__(self) -> str:
        return f"<Session {self._id or '(not begun)'} in {self.url}>"

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.store.url

    @property
    def id(self) -> str:
        """The session's id in its store; begins the session if need be. Raises `SessionLost` after `close`."""
        if self._id is None:
            with self._opening:
                self.check()
                if self._id is None:
                    self._id = self.store.open_session(self._describe(), float(self._options["ttl_s"] or 0))
        return self._id

    def check(self) -> None:
        """Raises `SessionLost` once `close` was called, by whichever thread."""
        if self._closed:
            raise SessionLost(f"this session in {self.url} is closed", scope=self.url)

    @property
    def holder(self) -> Holder:
        """How this participant is described to people."""
        return self.store.alive(self.id).holder or self._describe()

    @property
    def idle(self) -> bool:
        """Whether it holds nothing."""
        return not self._holds and not any(seat.grant for seat in list(self.seats.values()))

    @property
    def lasting(self) -> bool:
        """Whether its scope is one run's own, so that what a rank left there is meant for the others whenever they
        come."""
        return self._roster is not None and self._roster.unique

    @property
    def lost(self) -> bool:
        """Whether the session has ended or its liveness is gone, and with it everything it held."""
        return self._closed or (self._id is not None and self.store.alive(self._id).state != "alive")

    def alive(self, session: str) -> Liveness:
        """Whether a participant lives, with proof: a session, or a rank that nobody has met yet (`interlock.abc`)."""
        label = label_of(session)
        if label is None:
            return self.store.alive(session)
        if self._roster is None:
            return Liveness("unknown", f"rank {label} has not come yet")
        return self._roster.alive(label)

    def _describe(self) -> Holder:
        return Holder.here(rank=self.rank if self.size > 1 else None, size=self.size, note=str(self._options["note"]))

    def close(self) -> None:
        """Give back everything and end the session; a thread that waits gets `SessionLost`. Harmless when repeated."""
        self._closed = True
        seated = [seat.grant for seat in list(self.seats.values()) if seat.grant is not None]
        for grant in [*seated, *itertools.chain(*list(self._holds.values()))]:
            grant._depth = 1
            with contextlib.suppress(NotHeld, SessionLost):
                grant.release()
        self._bid_farewell()
        for seat in list(self.seats.values()):
            seat.rise()
        with self._opening:
            _kept.pop(self._key, None)
            if self._id is not None:
                self.store.close_session(self._id)
                self._id = None

    def _bid_farewell(self) -> None:
        """Tell the barriers and fences it took part in that this rank will not come back."""
        while self._collectives and self._id is not None:
            name, machine = self._collectives.popitem()
            op = Evict(self._id, why="its session was closed")
            with contextlib.suppress(InterlockError):
                if self.store.read(name) is not None:  # else it went with its scope, which is not to come back
                    self.store.transact(name, machine, op, time.monotonic() + FAREWELL_S)

    def __del__(self) -> None:
        """A session that is forgotten ends; one that holds something, or is a rank of a collective, is not forgotten.

        This may run in the middle of anything, so it takes no lock that others use and touches no record.
        """
        try:
            if self._id is not None:
                self.store.close_session(self._id)
        except Exception:  # at the interpreter's end modules go before us, and the kernel ends the session
            pass

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what the objects need

    def ticket(self) -> Ticket:
        """A new ticket of this session."""
        return Ticket(self._id or self.id, next(self._serials))

    def holds(self, name: str) -> list[Grant]:
        """The grants of this session under a name, oldest first."""
        return self._holds.get(name) or []

    def keep(self, name: str, grant: Grant) -> None:
        """Remember a grant."""
        if not self._holds:
            _kept[self._key] = self
        self._holds.setdefault(name, []).append(grant)
        if self._closed:
            grant.release()
            self.check()

    def drop(self, name: str, grant: Grant) -> None:
        """Forget a grant."""
        grants = self._holds.get(name, [])
        if grant in grants:
            grants.remove(grant)
        if not grants:
            self._holds.pop(name, None)
            if self.idle and not self._collectives:
                _kept.pop(self._key, None)

    def joins(self, name: str, machine: Machine) -> None:
        """Remember that this session is a party of a collective in which nobody else may take its place."""
        self._collectives[name] = machine
        _kept[self._key] = self

    # -- the objects

    def lock(self, name: str, *, timeout: float | None = None, reentrant: bool = False) -> Lock:
        """The lock of this name; see `interlock.Lock`."""
        return Lock(self, name, timeout=timeout, reentrant=reentrant)

    def rwlock(self, name: str, *, timeout: float | None = None) -> RWLock:
        """The reader-writer lock of this name; its write side is the lock of the same name."""
        return RWLock(self, name, timeout=timeout)

    def semaphore(self, name: str, permits: int, *, timeout: float | None = None) -> Semaphore:
        """The semaphore of this name; everybody who uses it must name the same number of permits."""
        return Semaphore(self, name, permits, timeout=timeout)

    def barrier(self, name: str, parties: int | None = None) -> Barrier:
        """The barrier of this name, for `parties` parties, or as many as the session's world has ranks."""
        return Barrier(self, name, parties)

    def event(self, name: str) -> Event:
        """The event of this name."""
        return Event(self, name)

    def once(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        timeout: float | None = None,
        retry: bool = False,
        takeover: bool = True,
    ) -> Any:
        """The result of `fn`, computed by the first comer; see `interlock.Once`."""
        return Once(self, name, timeout=timeout, retry=retry, takeover=takeover).run(fn)

    def cache(
        self,
        name: str,
        *,
        directory: str | os.PathLike[str] | None = None,
        limit_bytes: int | None = None,
        allow_pickle: bool = False,
    ) -> Cache:
        """The cache of this name; see `interlock.Cache`. One that ranks ask for in ``job://`` outlives their run: it is
        the cache of this name in the default scope."""
        from interlock.cache import Cache

        return Cache(
            self if self._roster is None else default(),
            name,
            directory=directory,
            limit_bytes=limit_bytes,
            allow_pickle=allow_pickle,
        )

    def fence(
        self, name: str, *, writer: int | None = None, timeout: float | None = None, takeover: bool = True
    ) -> Fence:
        """One turn in which one rank writes and the others wait; see `interlock.Fence`."""
        return Fence(self, name, writer=writer, timeout=timeout, takeover=takeover)

    def single(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        writer: int | None = None,
        timeout: float | None = None,
        takeover: bool = True,
    ) -> Any:
        """Collective: every rank calls it, one of them computes `fn`, all get its value or its error."""
        with self.fence(name, writer=writer, timeout=timeout, takeover=takeover) as fence:
            fence.guard()
            fence.share(fn())
        return fence.collect()

    @contextlib.contextmanager
    def first(
        self, name: str = "init", *, scope: str = "job", timeout: float | None = None, takeover: bool = True
    ) -> Iterator[bool]:
        """Collective: the first rank to come runs the block alone, then all the others run it, beside one another.

            with session.first("dataset"):
                dataset = load()  # downloads and builds it in the first rank, finds it in the others

        Args:    scope: ``job``: one first rank of all; ``node``: one on each node.
                 timeout, takeover: see `interlock.Fence`.
        Returns: into the block, whether this rank is the first.
        Raises:  in the others, the error of the first rank's block, instead of running theirs; AcquireTimeout.
        Crash:   if the first rank dies in its block, the next one runs it alone; without `takeover`, all get OwnerDied.
        """
        with self._turn(name, scope, timeout, takeover) as fence:
            mine = fence.writes()
            if mine:
                yield True
        if not mine:
            yield False

    def _turn(self, name: str, scope: str, timeout: float | None, takeover: bool) -> Fence:
        """The fence of all ranks, or of those on this node."""
        if scope == "job":
            return Fence(self, name, timeout=timeout, takeover=takeover)
        if scope != "node":
            raise ValueError(f"scope is job or node, not {scope!r}")
        found = world()
        local = (found.local_rank, found.local_size) if found.size == self.size else (self.rank, self.size)
        group = Group(node_name(), *local)
        return Fence(self, f"{name}@{group.name}", timeout=timeout, takeover=takeover, group=group)


def default() -> Session:
    """This process's session in the default scope."""
    return shared(_default, None)


def shared(sessions: dict[str | None, Session], url: str | None) -> Session:
    """The one session of this process in a scope: with two, a thread could wait for itself and not know it.

    Where the one that `sessions` has is lost, after a long pause say, and holds nothing any more, it is a new one.
    """
    with _choosing:
        session = sessions.get(url)
        if session is None or (session.idle and session.lost):
            session = sessions[url] = connect(url)
        return session


def connect(
    url: str | os.PathLike[str] | None = None,
    *,
    rank: int | None = None,
    size: int | None = None,
    note: str = "",
    ttl_s: float = 30.0,
) -> Session:
    """A session in the scope of a URL.

    Args:
        url:  ``file:///directory`` or a directory's path; ``shm://name``, this host's memory; ``memory://name``, this
              process; ``job://``, a scope of this run's ranks alone (see `interlock.job`); None takes $INTERLOCK_URL,
              else a directory under the user's state directory.
        rank, size: this participant's place among the parties of collectives; None reads the launcher's environment.
        note: a few words shown to whoever waits for this participant.
        ttl_s: how long a participant may be silent before others take it for dead, where that is known by a heartbeat
              (``file:///directory?primitive=claims``); four signs in that time. Kernel locks need none.
    Raises: Unavailable: unknown scheme or malformed URL (definite). The store itself is first touched when it is used.
    """
    if url == JOB:
        return _of_this_run(rank, size, note, ttl_s)
    return Session(url, rank=rank, size=size, note=note, ttl_s=ttl_s)


def _of_this_run(rank: int | None, size: int | None, note: str, ttl_s: float) -> Session:
    """A session in the scope of this run. As one of several ranks it is known to the others from now on."""
    from interlock import job

    run = job.this_run(size)
    url = job.scope(run)
    members = job.roster(url, run.unique)
    session = Session(url, rank=rank, size=size, note=note, ttl_s=ttl_s, roster=members)
    if session.size > 1:
        found = world()
        local = found.local_rank if found.size == session.size else session.rank
        members.join(dataclasses.replace(session._describe(), note=f"{node_name()}/{local}"))
    return session


def _rejoin(url: str, options: dict[str, Any], key: str) -> Session:
    return _known.get(key) or Session(url, **options, key=key)


@atexit.register
def _end_idle_sessions() -> None:
    """A process that ends in order leaves no session file behind, unless it holds something: then its successor is
    told `recovered`, as after any other death."""
    for session in list(_known.values()):
        if session.idle:
            with contextlib.suppress(InterlockError):
                session.close()
    if "interlock.job" in sys.modules:
        sys.modules["interlock.job"].leave_runs()


def _own_nothing_in_child() -> None:
    global _choosing
    _choosing = threading.RLock()
    _kept.clear()
    for session in list(_known.values()):
        session._own_nothing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_nothing_in_child)
