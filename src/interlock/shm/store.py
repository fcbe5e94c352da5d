"""shm://name: records and objects of one host, in a directory of shared memory (tmpfs).

How the three laws hold here: admission (lock, semaphore), events and once are done by the C core, each step one change
of one word, of which the cell of the ticket is the proof; every other kind is a record of the file store that this one
is, on tmpfs.
A wake-up is a futex on the ticket's own cell. A session lives as long as the kernel lock on its file, and its cells as
long as the robust mutex of its process (``csrc/life.h``).
What breaks them: somebody who removes the files of a live scope; a host that goes down takes its shared memory along,
so everything begins anew then, with tokens larger than before, as long as the clock does not go back by years.

Layer: a store; of the machines it names the kinds and operations that the core realises.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from interlock.abc import WAITING, Evict, Leave, Machine, Outcome, Stored, Ticket
from interlock.errors import Mismatch, RecordInvalid, Unavailable
from interlock.machines.admission import Acquire
from interlock.machines.barrier import Abort, Complete, Reset
from interlock.machines.event import Clear, Set
from interlock.machines.once import ONCE, Claim, Forget
from interlock.shm.seen import KINDS, NAMES, admitted, number, stored
from interlock.shm.work import Work
from interlock.stores._space import Space, file_name, reaching
from interlock.stores.file import FileStore

if TYPE_CHECKING:
    from interlock.objects.named import Named

try:
    from interlock import _native
    from interlock.shm.regions import Regions, as_bytes
except ImportError:
    _native = None  # type: ignore[assignment]

WHOLE = ("lock", "semaphore", "event", "once")  # kinds that are kept in the core alone, and have no record
PLACE = "/dev/shm"
REPOLL_S = 1.0  # at most so long until a waiter asks how the sessions ahead of it are; the core sees deaths itself


class ShmStore(FileStore):
    """One scope of shared memory as this process uses it."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__(url, path, local=True)
        self._waits: dict[Ticket, Any] = {}

    def _enter(self, space: Space, sessions: Any = None) -> None:
        self._regions, self._waits = Regions(space, self.url), {}
        super()._enter(space, sessions)

    def _after_fork(self) -> None:
        if self._space is not None:
            self._regions.close()
        super()._after_fork()

    def __del__(self) -> None:
        if getattr(self, "_space", None) is not None:
            self._regions.close()
        super().__del__()

    @property
    def kinds(self) -> tuple[type[Named], ...]:
        """The classes of objects that are this store's own."""
        from interlock.shm.objects import KINDS

        return KINDS

    # -- regions

    def region(
        self, name: str, machine: Machine, permits: int = 1, *, create: bool = True, deadline: float | None = None
    ) -> Any:
        """The object of a name in shared memory; None if there is none and it is not to be made."""
        found = self._find(name, create)
        while found is None and create:
            unless = functools.partial(self._refuse_record, name, machine.kind)
            self._regions.make(name, KINDS[machine.kind], permits, unless, deadline)
            found = self._regions.find(name)
        if found is not None and NAMES[found.shape[0]] != machine.kind:
            raise Mismatch.of_kind(name, NAMES[found.shape[0]], machine.kind, self.url)
        return found

    def _find(self, name: str, begin: bool = False) -> Any:
        """The object that has the name now, or None."""
        if begin:
            self._current()
            self._regions.begin()
        return None if self._existing() is None else self._regions.find(name)

    def _refuse_record(self, name: str, kind: str) -> None:
        stored = super().read(name) if kind in WHOLE else None
        if stored is not None:
            raise Mismatch.of_kind(name, stored.kind, kind, self.url)

    def _refuse_object(self, name: str, kind: str) -> None:
        found = self._find(name)
        if found is not None and NAMES[found.shape[0]] in WHOLE:
            raise Mismatch.of_kind(name, NAMES[found.shape[0]], kind, self.url)

    # -- the three operations

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        if machine.kind == "event":
            return self._signal(name, machine, op, deadline)
        if machine.kind == "once":
            return self._work(name, op, deadline)
        if machine.kind in WHOLE:
            return self._admit(name, machine, op, deadline)
        if machine.kind == "barrier":
            return self._meet(name, machine, op, deadline)
        self._refuse_object(name, machine.kind)
        return super().transact(name, machine, op, deadline)

    def _admit(self, name: str, machine: Machine, op: Any, deadline: float | None) -> Outcome:
        """One step of the admission machine, by the core."""
        if isinstance(op, Evict):
            return self._evict(self.region(name, machine, create=False), op.session)
        session, serial = number(op.ticket.session), op.ticket.serial
        if not isinstance(op, Acquire):
            region = self.region(name, machine, create=False)
            if region is None:
                return Outcome("gone")
            if isinstance(op, Leave):
                self._waits.pop(op.ticket, None)
                return Outcome(region.leave(session, serial, bool(op.why))[0])
            return self._outcome(region, region.downgrade(session, serial), op.ticket)
        while True:
            region = self.region(name, machine, op.permits or 1, deadline=deadline)
            if op.permits and region.shape[1] != op.permits:
                if not self.retire(name, machine):
                    return Outcome("mismatch", region.shape[1])
                continue
            answer = region.acquire(session, serial, op.shared, op.wait)
            if answer[0] != "retired":
                return self._outcome(region, answer, op.ticket)
            self._regions.remove(name, region)

    def _evict(self, region: Any, session: str) -> Outcome:
        who = number(session)
        return Outcome("gone" if region is None or not who else region.evict(who)[0])

    def _signal(self, name: str, machine: Machine, op: Any, deadline: float | None) -> Outcome:
        """One step of the event's machine, by the core."""
        while True:
            region = self.region(name, machine, deadline=deadline)
            if isinstance(op, Set | Clear):
                if region.set(isinstance(op, Set)):
                    return Outcome("set" if isinstance(op, Set) else "clear")
            elif isinstance(op, Evict):
                return self._evict(region, op.session)
            else:
                ticket, wait = (number(op.ticket.session), op.ticket.serial), not isinstance(op, Leave) and op.wait
                answer = region.leave(*ticket, False) if isinstance(op, Leave) else region.acquire(*ticket, False, wait)
                if answer[0] != "retired":
                    return self._outcome(region, answer, op.ticket)
            self._regions.remove(name, region)

    def _outcome(self, region: Any, answer: tuple[str, int, bool, int], ticket: Ticket) -> Outcome:
        state, token, told, since = answer
        if state == WAITING:
            self._waits[ticket] = region
        else:
            self._waits.pop(ticket, None)
        if NAMES[region.shape[0]] == "event" and state != "limit":
            return Outcome("set" if state == "granted" else state)
        if state == "granted":
            return Outcome(state, (token, told, since))
        if state == "limit":
            return Outcome(state, len(region.snapshot()[2]))
        if state not in (WAITING, "refused"):
            return Outcome(state)
        ahead = admitted(region).entries
        tickets = [entry.ticket for entry in ahead]
        position = tickets.index(ticket) if ticket in tickets else len(ahead)
        before = ahead[:position]
        if state == WAITING and before and not before[-1].token:
            before = before[-1:]
        return Outcome(state, watch=tuple(dict.fromkeys(e.ticket.session for e in before)), position=position)

    def _work(self, name: str, op: Any, deadline: float | None) -> Outcome:
        """One step of the machine of once, by the core."""
        while True:
            region = self.region(name, ONCE, create=isinstance(op, Claim), deadline=deadline)
            if region is None:
                return Outcome("forgotten" if isinstance(op, Forget) else "gone")
            if isinstance(op, Evict):
                return self._evict(region, op.session)
            outcome = Work(region, self._regions.results, file_name(name)).step(op)
            if outcome is None:
                self._regions.remove(name, region)
                continue
            if outcome.state == WAITING:
                self._waits[op.ticket] = region
            elif not isinstance(op, Forget):
                self._waits.pop(op.ticket, None)
            return outcome

    def _meet(self, name: str, machine: Machine, op: Any, deadline: float | None) -> Outcome:
        """A step of the barrier's machine, beside the word in which its parties may meet without it."""
        region = self.region(name, machine, create=False)
        if region is None:
            self._refuse_object(name, machine.kind)
            return super().transact(name, machine, op, deadline)
        if isinstance(op, Abort | Reset | Evict):
            region.move()
        if not isinstance(op, Complete):
            return super().transact(name, machine, op, deadline)
        stored = super().read(name)
        record = None if stored is None else machine.decode(stored.text)
        engaged = record is not None and region.engage(record.parties, op.generation + 1)
        outcome = super().transact(name, machine, op, deadline)
        if engaged and outcome.state != "passed":
            region.move()
        return outcome

    def park(self, ticket: Ticket, timeout: float) -> None:
        region = self._waits.get(ticket)
        if region is None:
            super().park(ticket, timeout)
        elif timeout > 0:
            region.park(number(ticket.session), ticket.serial, min(timeout, REPOLL_S))

    def close_session(self, session: str, *, forget: bool = True) -> None:
        if self._space is not None:
            self._regions.evict(number(session))
        super().close_session(session, forget=forget)

    # -- looking and tidying

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        yield from super().records(prefix)
        for region in self._regions.all() if self._existing() is not None else ():
            if isinstance(region, RecordInvalid):
                yield region
            elif NAMES[region.shape[0]] in WHOLE and region.name.startswith(as_bytes(prefix)):
                yield self._looked_at(region.name.decode("utf-8", "surrogatepass"), region)

    def read(self, name: str) -> Stored | None:
        region = self._find(name)
        if region is not None and NAMES[region.shape[0]] in WHOLE:
            return self._stored(name, region)
        return super().read(name)

    def _looked_at(self, name: str, region: Any) -> Stored | RecordInvalid:
        try:
            return self._stored(name, region)
        except RecordInvalid as error:  # its result cannot be read
            return error

    def _stored(self, name: str, region: Any) -> Stored:
        return stored(name, region, functools.partial(self._regions.results.read, file_name(name)))

    def retire(self, name: str, machine: Machine) -> bool:
        region = self.region(name, machine, create=False) if machine.kind in KINDS else None
        if machine.kind in WHOLE:
            return region is not None and self._regions.remove(name, region)
        if region is not None:
            region.move()
        return super().retire(name, machine)

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        try:
            region = self._find(name)
        except RecordInvalid:
            return self._regions.set_aside(name)
        if region is not None and NAMES[region.shape[0]] == "once":
            _, last, handed, kept, _ = region.attempts()
            aside = self._regions.results.set_aside(file_name(name), last if kept else handed)
            if aside is not None:
                region.forget()
            return aside
        return super().discard(name, unreadable)


def home() -> str:
    """The directory of this user's scopes; made if need be, and refused if somebody else made it."""
    path = PLACE
    for part in (f"interlock-{os.geteuid()}", "scopes"):
        path = os.path.join(path, part)
        with reaching(path):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
            status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise Unavailable(f"{path} is not a directory of yours alone: move it away", path=path)
    return path


_stores: weakref.WeakValueDictionary[str, ShmStore] = weakref.WeakValueDictionary()
_registry = threading.Lock()


def open_store(url: str) -> ShmStore:
    """The store of a ``shm://name`` URL.

    Raises: Unavailable: the name is none, or this build or system has no shared-memory objects (definite).
    """
    if _native is None:
        raise Unavailable(
            f"{url}: this build has no objects in shared memory, which need Linux and a C compiler when interlock is "
            "installed; file:///directory serves the processes of a host as well, only slower",
            scope=url,
        )
    parts = urlsplit(url)
    name = os.fsdecode(unquote_to_bytes(parts.netloc + parts.path))
    if not name or parts.query or parts.fragment or "/" in name or "\0" in name or len(os.fsencode(name)) > 200:
        raise Unavailable(f"{url!r} is not shm://name, with a name of up to 200 bytes without '/'", scope=url)
    if name.startswith("."):
        raise Unavailable(f"{url!r}: a name does not begin with a dot", scope=url)
    path = os.path.join(home(), name)
    with _registry:
        store = _stores.get(path)
        if store is None:
            store = _stores[path] = ShmStore(f"shm://{quote(os.fsencode(name), safe='')}", path)
    return store


def _after_fork() -> None:
    global _registry
    _registry = threading.Lock()
    for store in list(_stores.values()):
        store._after_fork()


os.register_at_fork(after_in_child=_after_fork)
