"""Lock, reader-writer lock and semaphore: three faces of the admission machine.

Layer: an object.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from interlock._runners import block
from interlock._script import Abandon, Script, TimedOut, reach, settle, submit
from interlock.abc import Leave, Outcome, Ticket
from interlock.errors import AcquireTimeout, Deadlock, NotHeld, Unavailable
from interlock.machines.admission import LOCK, SEMAPHORE, Acquire, Downgrade, Held
from interlock.objects.named import Named, check_count, check_name, check_timeout, wall_ms

if TYPE_CHECKING:
    from interlock.holder import Holder
    from interlock.session import Session


_LEFT_TO_KINDS: tuple[str, ...] = ()  # each kind of grant keeps its members in its own way


class Grant:
    """One hold: what was obtained, and the way to give it back from any thread of the process.

    token:     larger than that of every earlier holder of the name; pass it to what must refuse a late writer.
    recovered: an earlier holder died; what the lock guards may be half-written.
    since:     wall-clock seconds at which it was granted.
    """

    __slots__ = _LEFT_TO_KINDS
    token: int
    recovered: bool
    since: float
    _lock: Lock
    _owner: int
    _depth: int

    def __repr__(self) -> str:
        return f"Grant(token={self.token}, recovered={self.recovered}, since={self.since})"

    @property
    def _ticket(self) -> Ticket:
        raise NotImplementedError

    def release(self) -> None:
        """Give the hold back, from any thread of the process that obtained it. Raises `NotHeld` if that was done."""
        self._lock._release(self)

    def downgrade(self) -> None:
        """Turn a write hold into a read hold, atomically: waiting readers come in, no writer comes between.

        Raises: NotHeld: the hold was given back. RuntimeError: a semaphore's permit has no weaker form.
        """
        self._lock._run(self._lock._weaken(self))


class Recorded(Grant):
    """A hold that stands in a record under a ticket."""

    __slots__ = ("_depth", "_lock", "_owner", "_ticket", "recovered", "since", "token")

    def __init__(self, lock: Lock, ticket: Ticket, owner: int, held: Held) -> None:
        self.token, self.recovered, since = held
        self.since = since / 1000
        self._lock = lock
        self._ticket = ticket  # type: ignore[misc]
        self._owner = owner
        self._depth = 1


class Lock(Named):
    """A lock that serves in order of arrival and outlives the death of its holder.

    Made by `Session.lock`, `RWLock.read` and `RWLock.write`; all of one name are the same lock.
    """

    machine = LOCK
    _shared = False
    _permits = 0

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        timeout: float | None = None,
        reentrant: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(session, name)
        self.timeout = check_timeout(timeout)
        self.reentrant = reentrant
        self._shared = shared

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_lock, (type(self), self._session, self.name, self.timeout, self.reentrant, self._shared)

    def acquire(self, timeout: float | None = None) -> Grant:
        """Take the lock, waiting behind earlier arrivals.

        On return the calling thread holds it, and nobody else does. Served strictly in order of arrival.

        Args:    timeout: seconds; None waits for ever, 0 tries once.
        Returns: the grant; its token is larger than that of every earlier holder.
        Raises:  AcquireTimeout: not held, nothing left behind (definite). Deadlock: this thread holds it already.
        Crash:   if a holder dies, the next waiter is granted with ``recovered=True`` within a second on one host.
        Cost:    one transaction of the store when free.
        """
        limit = check_timeout(timeout)
        request = self._ask(limit)
        if isinstance(request, Grant):
            return request
        answer: Outcome | BaseException
        started = time.monotonic()
        try:
            answer = self._target.attempt(request, None if limit is None else reach(started + limit))
            if answer.state == "granted":
                return self._granted(request.ticket, answer.value)
        except BaseException as error:
            answer = error
        grant: Grant = block(self._await(request, limit, started), self._target, answer)
        return grant

    def try_acquire(self) -> Grant | None:
        """The grant if the lock is free now, or its holders are proved dead; else None. Never waits in the row."""
        try:
            return self.acquire(0)
        except (AcquireTimeout, Deadlock):
            return None

    def release(self) -> None:
        """Give back what the calling thread holds.

        Raises: NotHeld: this thread holds nothing here. SessionLost: the hold had been taken away (indefinite).
        """
        self._release(None)

    def __enter__(self) -> Grant:
        return self.acquire(self.timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether the calling thread holds it."""
        return self._mine() is not None

    def locked(self) -> bool:
        """Whether anybody holds it now. Takes nothing."""
        return any(entry.token for entry in self._record().entries)

    def holder(self) -> Holder | None:
        """Who holds it (one of them, if several do), or None. Takes nothing."""
        people = self._people([entry.ticket.session for entry in self._record().entries if entry.token])
        return people[0] if people else None

    def waiters(self) -> list[Holder]:
        """Who waits for it, first to be served first. Takes nothing."""
        return self._people([entry.ticket.session for entry in self._record().entries if not entry.token])

    # -- the scripts behind it

    def _holding(self, record: Any) -> dict[str, int]:
        return {entry.ticket.session: entry.since for entry in record.entries if entry.token}

    def _holds(self) -> list[Grant]:
        return self._session.holds(self.name)

    def _mine(self) -> Grant | None:
        owner = self._session.owner()
        for grant in reversed(self._holds()):
            if grant._owner == owner and grant._lock._shared == self._shared:
                return grant
        return None

    def _take(self, timeout: float | None) -> Script:
        request = self._ask(timeout)
        if isinstance(request, Grant):
            return request
        return (yield from self._await(request, timeout))

    def _ask(self, timeout: float | None) -> Acquire | Grant:
        """The request to submit, or the hold that a reentrant lock counts up instead."""
        session = self._session
        holds = session.holds(self.name)
        if holds:
            again = self._held_already(session.owner(), holds)
            if again is not None:
                return again
        return Acquire(session.ticket(), self._shared, self._permits, timeout != 0, wall_ms())

    def _await(self, request: Acquire, timeout: float | None, started: float | None = None) -> Script:
        try:
            outcome = yield from settle(request, timeout, started=started)
        except TimedOut as late:
            raise self._timed_out(late) from None
        if outcome.state != "granted":
            raise self._refused(outcome)
        return self._granted(request.ticket, outcome.value)

    def _granted(self, ticket: Ticket, held: Held) -> Grant:
        grant = Recorded(self, ticket, self._session.owner(), held)
        self._session.keep(self.name, grant)
        return grant

    def _held_already(self, owner: int, holds: list[Grant]) -> Grant | None:
        """A second hold of one thread: counted if the lock is reentrant, else a wait that could never end."""
        for grant in holds:
            if grant._owner == owner:
                if self.reentrant and not grant._lock._shared:
                    grant._depth += 1
                    return grant
                raise Deadlock(
                    f"this thread holds {self!r} already, since {time.time() - grant.since:.1f} s; "
                    "waiting for it would never end (reentrant=True allows it)",
                    name=self.name,
                    scope=self._session.url,
                    cycle=(self.name,),
                )
        return None

    def _release(self, grant: Grant | None) -> None:
        """Give back a grant, or the calling thread's own."""
        grant, op = self._due(grant)
        if op is None:
            return
        answer: Outcome | BaseException
        try:
            answer = self._target.attempt(op)
            if answer.state == "left":
                self._session.drop(self.name, grant)
                return
        except BaseException as error:
            answer = error
        block(self._return(grant, op), self._target, answer)

    def _give_back(self, grant: Grant | None) -> Script:
        grant, op = self._due(grant)
        if op is not None:
            yield from self._return(grant, op)

    def _due(self, grant: Grant | None) -> tuple[Grant, Leave | None]:
        """The grant to give back, and the op that does it; no op while a reentrant hold is only counted down."""
        found = grant or self._mine()
        if found is None or found not in self._holds():
            raise NotHeld(
                f"{self!r} is not held by this {'thread' if grant is None else 'grant any more'}",
                name=self.name,
                scope=self._session.url,
            )
        if found._depth > 1:
            found._depth -= 1
            return found, None
        return found, Leave(found._ticket, wall_ms())

    def _return(self, grant: Grant, op: Leave) -> Script:
        try:
            outcome = yield from submit(op)
        except Unavailable:
            raise
        except BaseException:
            self._session.drop(self.name, grant)
            yield Abandon(op)
            raise
        self._session.drop(self.name, grant)
        if outcome.state != "left":
            raise self._refused(outcome)

    def _weaken(self, grant: Grant) -> Script:
        if self._permits:
            raise RuntimeError(f"{self!r} cannot be downgraded")
        if grant not in self._holds():
            raise NotHeld(f"{self!r} is not held by this grant any more", name=self.name, scope=self._session.url)
        outcome = yield from submit(Downgrade(grant._ticket, wall_ms()))
        if outcome.state != "granted":
            raise self._refused(outcome)
        grant._lock = type(self)(self._session, self.name, shared=True)


def _rebuild_lock(
    kind: type[Lock], session: Session, name: str, timeout: float | None, reentrant: bool, shared: bool
) -> Lock:
    return kind(session, name, timeout=timeout, reentrant=reentrant, shared=shared)


class RWLock:
    """A lock with a shared and an exclusive side, served in order of arrival, so that neither side starves."""

    def __init__(self, session: Session, name: str, *, timeout: float | None = None) -> None:
        self._session = session
        self.name = check_name(name)
        self.timeout = check_timeout(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_rwlock, (type(self), self._session, self.name, self.timeout)

    def __repr__(self) -> str:
        return f"<RWLock {self.name!r} in {self._session.url}>"

    def read(self) -> Lock:
        """The shared side: held by any number of readers at once, and by no writer."""
        return Lock(self._session, self.name, timeout=self.timeout, shared=True)

    def write(self) -> Lock:
        """The exclusive side: held alone."""
        return Lock(self._session, self.name, timeout=self.timeout)


def _rebuild_rwlock(kind: type[RWLock], session: Session, name: str, timeout: float | None) -> RWLock:
    return kind(session, name, timeout=timeout)


class Semaphore(Lock):
    """A number of permits, handed out in order of arrival; a dead holder's permit comes back.

    A thread may hold several permits; `release` gives back one of its own, else one of another thread of the session.
    """

    machine = SEMAPHORE

    def __init__(self, session: Session, name: str, permits: int, *, timeout: float | None = None) -> None:
        super().__init__(session, name, timeout=timeout, shared=True)
        self.permits = self._permits = check_count("permits", permits)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_semaphore, (type(self), self._session, self.name, self.permits, self.timeout)

    def _held_already(self, owner: int, holds: list[Grant]) -> Grant | None:
        return None

    def _mine(self) -> Grant | None:
        holds = self._holds()
        return super()._mine() or (holds[-1] if holds else None)


def _rebuild_semaphore(
    kind: type[Semaphore], session: Session, name: str, permits: int, timeout: float | None
) -> Semaphore:
    return kind(session, name, permits, timeout=timeout)
