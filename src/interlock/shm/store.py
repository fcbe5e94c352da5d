"""shm://name: records and objects of one host, in a directory of shared memory (tmpfs).

How the three laws hold here: admission (lock, semaphore) is done by the C core, each step one change of one word, of
which the cell of the ticket is the proof; every other kind is a record of the file store that this one is, on tmpfs.
A wake-up is a futex on the ticket's own cell. A session lives as long as the kernel lock on its file, and its cells as
long as the robust mutex of its process (``csrc/life.h``).
What breaks them: somebody who removes the files of a live scope; a host that goes down takes its shared memory along,
so everything begins anew then, with tokens larger than before, as long as the clock does not go back by years.

Layer: a store; of the machines it names the kinds and operations that the core realises.
"""

from __future__ import annotations

import os
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from interlock.abc import WAITING, Evict, Leave, Machine, Outcome, Stored, Ticket
from interlock.errors import LimitExceeded, Mismatch, RecordInvalid, Unavailable
from interlock.machines.admission import Acquire, Entry, Record
from interlock.machines.barrier import Abort, Complete, Reset
from interlock.machines.event import Clear, Set, Waiter
from interlock.machines.event import Record as Flag
from interlock.stores._record import invalid
from interlock.stores._space import Space, file_name, reaching
from interlock.stores.file import FileStore

if TYPE_CHECKING:
    from interlock.objects import Kinds

try:
    from interlock import _native
except ImportError:
    _native = None  # type: ignore[assignment]

KINDS = {"lock": 1, "semaphore": 2, "barrier": 3, "event": 4}
NAMES = {code: kind for kind, code in KINDS.items()}
WHOLE = ("lock", "semaphore", "event")  # kinds that are kept in the core alone, and have no record
FOLDER = "native"
PLACE = "/dev/shm"
REPOLL_S = 0.1  # at most so long until a waiter looks whether those ahead of it still live


class ShmStore(FileStore):
    """One scope of shared memory as this process uses it."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__(url, path, local=True)
        self._regions: dict[str, Any] = {}
        self._waits: dict[Ticket, Any] = {}
        self._lives: Any = None
        self._folder = -1

    def _enter(self, space: Space, sessions: Any = None) -> None:
        super()._enter(space, sessions)
        self._regions, self._waits = {}, {}
        self._lives = None
        self._folder = -1

    @property
    def kinds(self) -> Kinds:
        """The classes of the objects in this scope."""
        from interlock.shm.objects import KINDS

        return KINDS

    # -- regions

    def _begin(self) -> Space:
        """The scope, with this process's life begun in it."""
        space = self._current()
        if self._lives is None:
            with space.locked(), reaching(self.path):
                if self._lives is None:
                    try:
                        os.mkdir(FOLDER, 0o700, dir_fd=space.root)
                    except FileExistsError:
                        pass
                    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
                    self._folder = os.open(FOLDER, flags, dir_fd=space.root)
                    space.publish("lives", space.root, _native.blank_lives())
                    lives = self._mapped(_native.Lives, "lives", space.root)
                    lives.begin()
                    self._lives = lives  # last: other threads go on without the lock once it is there
        return space

    def _mapped(self, kind: Any, name: str, directory: int, *others: Any) -> Any:
        fd = self._opened().open(name, os.O_RDWR, directory)
        try:
            return kind(fd, *others)
        except ValueError as damage:
            raise invalid(os.path.join(self.path, name), damage, scope=self.url) from None
        finally:
            os.close(fd)

    def region(self, name: str, machine: Machine, permits: int = 1, *, create: bool = True) -> Any:
        """The object of a name in shared memory; None if there is none and it is not to be made."""
        found = self._regions.get(name)
        if found is None:
            found = self._find(name, machine.kind, permits, create)
        if found is not None and NAMES[found.shape[0]] != machine.kind:
            raise Mismatch.of_kind(name, NAMES[found.shape[0]], machine.kind, self.url)
        return found

    def _find(self, name: str, kind: str, permits: int, create: bool) -> Any:
        space, filed = self._begin(), file_name(name)
        while True:
            try:
                region = self._mapped(_native.Region, filed, self._folder, self._lives)
            except FileNotFoundError:
                if not create:
                    return None
                self._make(space, name, kind, permits)
                continue
            if region.name != _bytes(name):
                raise invalid(self._place(filed), "it is the object of another name", name=name, scope=self.url)
            return self._regions.setdefault(name, region)

    def _make(self, space: Space, name: str, kind: str, permits: int) -> None:
        with space.locked():
            stored = super().read(name) if kind in WHOLE else None
            if stored is not None:
                raise Mismatch.of_kind(name, stored.kind, kind, self.url)
            try:
                content = _native.blank_object(KINDS[kind], permits, time.time_ns() // 8, _bytes(name))
            except ValueError as error:
                raise LimitExceeded(f"{name!r} in {self.url}: {error}", name=name, scope=self.url) from None
            space.publish(file_name(name), self._folder, content)

    def _place(self, filed: str) -> str:
        return os.path.join(self.path, FOLDER, filed)

    def _drop(self, name: str) -> None:
        self._regions.pop(name, None)

    # -- the three operations

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        if machine.kind == "event":
            return self._signal(name, machine, op)
        if machine.kind in WHOLE:
            return self._admit(name, machine, op)
        if machine.kind == "barrier":
            return self._meet(name, machine, op, deadline)
        if name not in self._regions or NAMES[self._regions[name].shape[0]] in WHOLE:
            self._refuse_native(name, machine.kind)
        return super().transact(name, machine, op, deadline)

    def _refuse_native(self, name: str, kind: str) -> None:
        found = self._find(name, kind, 1, create=False)
        if found is not None and NAMES[found.shape[0]] in WHOLE:
            raise Mismatch.of_kind(name, NAMES[found.shape[0]], kind, self.url)

    def _admit(self, name: str, machine: Machine, op: Any) -> Outcome:
        """One step of the admission machine, by the core."""
        if isinstance(op, Evict):
            region = self.region(name, machine, create=False)
            known = region is not None and len(op.session) == 16
            return Outcome(region.evict(int(op.session, 16))[0] if known else "gone")
        session, serial = int(op.ticket.session, 16), op.ticket.serial
        if not isinstance(op, Acquire):
            region = self.region(name, machine, create=False)
            if region is None:
                return Outcome("gone")
            if isinstance(op, Leave):
                self._waits.pop(op.ticket, None)
                return Outcome(region.leave(session, serial, bool(op.why))[0])
            return self._outcome(region, region.downgrade(session, serial), op.ticket)
        while True:
            region = self.region(name, machine, op.permits or 1)
            if op.permits and region.shape[1] != op.permits:
                if not self.retire(name, machine):
                    return Outcome("mismatch", region.shape[1])
                continue
            answer = region.acquire(session, serial, op.shared, op.wait)
            if answer[0] != "retired":
                return self._outcome(region, answer, op.ticket)
            self._drop(name)

    def _signal(self, name: str, machine: Machine, op: Any) -> Outcome:
        """One step of the event's machine, by the core."""
        while True:
            region = self.region(name, machine)
            if isinstance(op, Set | Clear):
                if region.set(isinstance(op, Set)):
                    return Outcome("set" if isinstance(op, Set) else "clear")
            elif isinstance(op, Evict):
                return Outcome(region.evict(int(op.session, 16))[0] if len(op.session) == 16 else "gone")
            else:
                ticket, wait = (int(op.ticket.session, 16), op.ticket.serial), not isinstance(op, Leave) and op.wait
                answer = region.leave(*ticket, False) if isinstance(op, Leave) else region.acquire(*ticket, False, wait)
                if answer[0] != "retired":
                    return self._outcome(region, answer, op.ticket)
            self._drop(name)

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
        holders, waiters = _standing(region)
        ahead = [*holders, *(entry for entry in waiters)]
        tickets = [entry.ticket for entry in ahead]
        position = tickets.index(ticket) if ticket in tickets else len(ahead)
        before = ahead[:position]
        if state == WAITING and before and not before[-1].token:
            before = before[-1:]
        return Outcome(state, watch=tuple(dict.fromkeys(e.ticket.session for e in before)), position=position)

    def _meet(self, name: str, machine: Machine, op: Any, deadline: float | None) -> Outcome:
        """A step of the barrier's machine, beside the word in which its parties may meet without it."""
        region = self.region(name, machine, create=False)
        if region is None:
            self._refuse_native(name, machine.kind)
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
            region.park(int(ticket.session, 16), ticket.serial, min(timeout, REPOLL_S))

    def close_session(self, session: str, *, forget: bool = True) -> None:
        for region in list(self._regions.values()):
            region.evict(int(session, 16))
        super().close_session(session, forget=forget)

    # -- looking and tidying

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        yield from super().records(prefix)
        if self._existing() is None or _native is None:
            return
        self._begin()
        for filed in sorted(os.listdir(self._folder)):
            try:
                region = self._mapped(_native.Region, filed, self._folder, self._lives)
                name = region.name.decode("utf-8", "surrogatepass")
            except FileNotFoundError:
                continue
            except RecordInvalid as error:
                yield error
                continue
            if name.startswith(prefix) and NAMES[region.shape[0]] in WHOLE:
                yield _stored(name, region)

    def read(self, name: str) -> Stored | None:
        if self._existing() is None:
            return None
        region = self._regions.get(name) or self._find(name, "", 1, create=False)
        if region is not None and NAMES[region.shape[0]] in WHOLE:
            return _stored(name, region)
        return super().read(name)

    def retire(self, name: str, machine: Machine) -> bool:
        region = self.region(name, machine, create=False) if machine.kind in KINDS else None
        if machine.kind not in WHOLE:
            if region is not None:
                region.move()
            return super().retire(name, machine)
        if region is None:
            return False
        with self._opened().locked():
            if not region.retire():
                return False
            os.unlink(file_name(name), dir_fd=self._folder)
        self._drop(name)
        return True

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        space, filed = self._begin(), file_name(name)
        try:
            self._find(name, "", 1, create=False)
        except RecordInvalid:
            aside = f".damaged-{filed}-{os.urandom(4).hex()}"
            with space.locked(), reaching(self._place(filed)):
                os.rename(filed, aside, src_dir_fd=self._folder, dst_dir_fd=space.root)
            return os.path.join(self.path, aside)
        return super().discard(name, unreadable)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _standing(region: Any) -> tuple[list[Entry], list[Entry]]:
    """Who holds, and who waits in the order of arrival, as entries of the machine's record."""
    counter, _, rows = region.snapshot()
    semaphore = NAMES[region.shape[0]] == "semaphore"
    held, waiting = [], []
    for part, arrival, session, serial, token, since, shared, told in rows:
        ticket = Ticket(f"{session:016x}", serial)
        if part in "xr":
            held.append(Entry(ticket, semaphore or part == "r", min(token, counter) or counter, since, told))
        elif part in "wd":
            waiting.append((part == "w", arrival, Entry(ticket, semaphore or shared, 0, since, False)))
    if any(not entry.shared for entry in held):
        held = [entry for entry in held if not entry.shared][:1]
    return held, [entry for _, _, entry in sorted(waiting, key=lambda each: each[:2])]


def _stored(name: str, region: Any) -> Stored:
    from interlock.machines import BY_KIND

    kind, permits = region.shape
    counter, lost, _ = region.snapshot()
    held, waiting = _standing(region)
    if NAMES[kind] == "event":
        waiters = tuple(Waiter(entry.ticket, region.is_set()) for entry in waiting)
        state = Flag(counter, region.is_set(), waiters)
        return Stored(name, "event", counter, BY_KIND["event"].encode(state))
    record = Record(counter, permits if NAMES[kind] == "semaphore" else 0, lost, (*held, *waiting))
    return Stored(name, NAMES[kind], counter, BY_KIND[NAMES[kind]].encode(record))


def home() -> str:
    """The directory of this user's scopes; made if need be, and refused if somebody else made it."""
    path = os.path.join(PLACE, f"interlock-{os.geteuid()}")
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
