"""The same objects for asyncio: the same names, awaited.

    async with interlock.aio.connect(url) as session:
        async with session.lock("index") as grant:
            ...

Every method runs the very script that its blocking twin runs; only the runner differs (`interlock._tasks`). Within a
session a task is what a thread is elsewhere: tasks exclude each other, and the one that acquired is the one that
releases. For what an object means, what it raises and what it costs, see its twin in `interlock`.

Cancelling a task that waits leaves nothing behind: a transaction under way is waited for and then taken back.
Layer: above the session.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

from interlock import objects
from interlock import session as blocking
from interlock._script import Script
from interlock._tasks import unblock
from interlock.errors import AcquireTimeout, Deadlock
from interlock.holder import Holder
from interlock.objects import Arrival
from interlock.objects.fence import WayOut
from interlock.objects.named import Named, check_timeout
from interlock.results import pack, result_of

N = TypeVar("N", bound=Named)
L = TypeVar("L", bound=objects.Lock)


class _Awaited(Generic[N]):
    """An object and its awaited face."""

    def __init__(self, named: N) -> None:
        self._named = named

    def __repr__(self) -> str:
        return f"<aio {repr(self._named).lstrip('<')}"

    @property
    def name(self) -> str:
        """The object's name."""
        return self._named.name

    async def _run(self, script: Script) -> Any:
        return await unblock(script, self._named._target)


class Grant:
    """One hold; see `interlock.Grant`."""

    __slots__ = ("_grant", "recovered", "since", "token")

    def __init__(self, grant: objects.Grant) -> None:
        self.token, self.recovered, self.since = grant.token, grant.recovered, grant.since
        self._grant = grant

    def __repr__(self) -> str:
        return repr(self._grant)

    async def release(self) -> None:
        """Give the hold back, from any task."""
        lock = self._grant._lock
        await unblock(lock._give_back(self._grant), lock._target)

    async def downgrade(self) -> None:
        """Turn a write hold into a read hold, atomically."""
        lock = self._grant._lock
        await unblock(lock._weaken(self._grant), lock._target)


class Lock(_Awaited[L]):
    """See `interlock.Lock`; the sides of a reader-writer lock and semaphores have the same face."""

    async def acquire(self, timeout: float | None = None) -> Grant:
        """Take the lock, waiting behind earlier arrivals."""
        return Grant(await self._run(self._named._take(check_timeout(timeout))))

    async def try_acquire(self) -> Grant | None:
        """The grant if the lock is free now, else None."""
        try:
            return await self.acquire(0)
        except (AcquireTimeout, Deadlock):
            return None

    async def release(self) -> None:
        """Give back what the current task holds."""
        await self._run(self._named._give_back(None))

    async def __aenter__(self) -> Grant:
        return await self.acquire(self._named.timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    @property
    def held(self) -> bool:
        """Whether the current task holds it."""
        return self._named.held

    async def locked(self) -> bool:
        """Whether anybody holds it now. Takes nothing."""
        return await asyncio.to_thread(self._named.locked)

    async def holder(self) -> Holder | None:
        """Who holds it, or None. Takes nothing."""
        return await asyncio.to_thread(self._named.holder)

    async def waiters(self) -> list[Holder]:
        """Who waits for it, first to be served first. Takes nothing."""
        return await asyncio.to_thread(self._named.waiters)


class RWLock:
    """See `interlock.RWLock`."""

    def __init__(self, rwlock: objects.RWLock) -> None:
        self._rwlock = rwlock

    def read(self) -> Lock[objects.Lock]:
        """The shared side."""
        return Lock(self._rwlock.read())

    def write(self) -> Lock[objects.Lock]:
        """The exclusive side."""
        return Lock(self._rwlock.write())


class Barrier(_Awaited[objects.Barrier]):
    """See `interlock.Barrier`; tasks of one session are separate parties."""

    async def wait(self, timeout: float | None = None) -> Arrival:
        """Arrive, and wait until every party has. Cancelled, it breaks the barrier for everybody."""
        arrival: Arrival = await self._run(self._named._wait(check_timeout(timeout)))
        return arrival

    async def abort(self, reason: str = "") -> None:
        """Break the barrier for everybody, now and until `reset`."""
        await asyncio.to_thread(self._named.abort, reason)

    async def reset(self) -> None:
        """Start afresh; parties that wait get `BrokenBarrier`."""
        await asyncio.to_thread(self._named.reset)

    async def broken(self) -> bool:
        """Whether it is broken. Takes nothing."""
        return await asyncio.to_thread(lambda: self._named.broken)

    async def waiting(self) -> int:
        """How many parties wait now. Takes nothing."""
        return await asyncio.to_thread(lambda: self._named.waiting)


class Event(_Awaited[objects.Event]):
    """See `interlock.Event`."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if time ran out."""
        return bool(await self._run(self._named._wait(check_timeout(timeout))))

    async def set(self) -> None:
        """Set the flag and let everybody go who waits for it."""
        await asyncio.to_thread(self._named.set)

    async def clear(self) -> None:
        """Clear the flag; who was let go stays let go."""
        await asyncio.to_thread(self._named.clear)

    async def is_set(self) -> bool:
        """Whether the flag is set. Takes nothing."""
        return await asyncio.to_thread(self._named.is_set)


class Once(_Awaited[objects.Once]):
    """See `interlock.Once`."""

    async def run(self, fn: Callable[[], Any]) -> Any:
        """The result of `fn`, a function or a coroutine function, computed by the first comer.

        A plain function runs in the event loop; one that takes long belongs into `asyncio.to_thread`.
        """
        ticket, outcome = await self._run(self._named._claim())
        store, name = self._named._session.store, self._named.name
        if outcome.state == "yours":
            try:
                self._named._forbid(outcome)
                attempt = outcome.value[0]
                text = await asyncio.to_thread(pack, await _call(fn), store, name, attempt)
            except BaseException as error:
                told = await self._run(self._named._give_up(ticket, error))
                await asyncio.to_thread(self._named._part, told or outcome)
                raise
            outcome = await self._run(self._named._publish(ticket, attempt, text))
        try:
            return await asyncio.to_thread(result_of, outcome, store)
        finally:
            await asyncio.to_thread(self._named._part, outcome)

    async def forget(self) -> None:
        """Drop the result, so that the next comer computes again."""
        await asyncio.to_thread(self._named.forget)


async def _call(fn: Callable[[], Any | Awaitable[Any]]) -> Any:
    value = fn()
    return await value if inspect.isawaitable(value) else value


class Fence(_Awaited[objects.Fence]):
    """See `interlock.Fence`."""

    async def __aenter__(self) -> Fence:
        await self._run(self._named._begin())
        return self

    async def guard(self) -> None:
        """Go on only as the writer; everybody else waits here for the writer's end and leaves the block."""
        if not await self.writes():
            raise WayOut

    async def writes(self) -> bool:
        """Wait for this rank's part in the turn: whether it is to write."""
        return bool(await self._run(self._named._writes()))

    async def heartbeat(self) -> None:
        """Tell those who wait with a timeout that the work goes on. For the writer alone."""
        await asyncio.to_thread(self._named.heartbeat)

    def share(self, value: Any) -> None:
        """Give the value to everybody, when the block ends."""
        self._named.share(value)

    def collect(self) -> Any:
        """The writer's value, on every rank, after the block."""
        return self._named.collect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return bool(await self._run(self._named._end(error)))


class Session:
    """One participant; see `interlock.Session`."""

    def __init__(self, session: blocking.Session) -> None:
        self._session = session
        session.owner = _task

    def __repr__(self) -> str:
        return f"<aio {repr(self._session).lstrip('<')}"

    async def __aenter__(self) -> Session:
        await asyncio.to_thread(lambda: self._session.id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back everything and end the session. Harmless when repeated."""
        await asyncio.to_thread(self._session.close)

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._session.url

    @property
    def id(self) -> str:
        """The session's id in its store."""
        return self._session.id

    @property
    def rank(self) -> int:
        """This participant's place among the parties of collectives."""
        return self._session.rank

    @property
    def size(self) -> int:
        """How many parties collectives have."""
        return self._session.size

    @property
    def holder(self) -> Holder:
        """How this participant is described to people."""
        return self._session.holder

    @property
    def lost(self) -> bool:
        """Whether the session has ended or its liveness is gone."""
        return self._session.lost

    def lock(self, name: str, *, timeout: float | None = None, reentrant: bool = False) -> Lock[objects.Lock]:
        """The lock of this name."""
        return Lock(self._session.lock(name, timeout=timeout, reentrant=reentrant))

    def rwlock(self, name: str, *, timeout: float | None = None) -> RWLock:
        """The reader-writer lock of this name."""
        return RWLock(self._session.rwlock(name, timeout=timeout))

    def semaphore(self, name: str, permits: int, *, timeout: float | None = None) -> Lock[objects.Semaphore]:
        """The semaphore of this name."""
        return Lock(self._session.semaphore(name, permits, timeout=timeout))

    def barrier(self, name: str, parties: int | None = None) -> Barrier:
        """The barrier of this name."""
        return Barrier(self._session.barrier(name, parties))

    def event(self, name: str) -> Event:
        """The event of this name."""
        return Event(self._session.event(name))

    async def once(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        timeout: float | None = None,
        retry: bool = False,
        takeover: bool = True,
    ) -> Any:
        """The result of `fn`, computed by the first comer; see `Once.run`."""
        return await Once(objects.Once(self._session, name, timeout=timeout, retry=retry, takeover=takeover)).run(fn)

    def fence(
        self, name: str, *, writer: int | None = None, timeout: float | None = None, takeover: bool = True
    ) -> Fence:
        """One turn in which one rank writes and the others wait."""
        return Fence(self._session.fence(name, writer=writer, timeout=timeout, takeover=takeover))

    async def single(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        writer: int | None = None,
        timeout: float | None = None,
        takeover: bool = True,
    ) -> Any:
        """Collective: every rank calls it, one of them computes `fn`, all get its value or its error."""
        async with self.fence(name, writer=writer, timeout=timeout, takeover=takeover) as fence:
            await fence.guard()
            fence.share(await _call(fn))
        return fence.collect()

    @asynccontextmanager
    async def first(
        self, name: str = "init", *, scope: str = "job", timeout: float | None = None, takeover: bool = True
    ) -> AsyncIterator[bool]:
        """Collective: the first rank to come runs the block alone, then all the others run it; see `Session.first`."""
        async with Fence(self._session._turn(name, scope, timeout, takeover)) as fence:
            mine = await fence.writes()
            if mine:
                yield True
        if not mine:
            yield False


def _task() -> int:
    return id(asyncio.current_task())


def connect(
    url: str | os.PathLike[str] | None = None,
    *,
    rank: int | None = None,
    size: int | None = None,
    note: str = "",
    ttl_s: float = 30.0,
) -> Session:
    """A session in the scope of a URL, to be entered with ``async with``; see `interlock.connect`."""
    return Session(blocking.connect(url, rank=rank, size=size, note=note, ttl_s=ttl_s))
