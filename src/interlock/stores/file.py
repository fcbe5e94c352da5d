"""file:///path: records in a directory, for the processes of one host and for hosts that share the directory.

How the three laws hold here:

- `transact` holds the kernel lock of the record's own file from the read to the write, so no write can come late; the
  record survives a SIGKILL at any instant (`stores._record`). Nothing is created or renamed after a name's first use.
- Wake-ups on this host are futex words in a mapped file (`stores._futex`); other hosts poll, jittered and capped. A
  lost wake-up costs one re-poll.
- A session is alive while the kernel lock on its own file is held. The kernel gives it up when the process ends, in
  whatever way; a stopped process keeps it. After `fork` the child closes its copies and owns nothing.

What breaks them: a mount whose kernel locks mean nothing between hosts; somebody who removes the files of a live space
(noticed within 10 ms of use, but not undone); a power failure, after which records may be some seconds old.

Layer: a store; it imports no machine and no object.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

from interlock.abc import WAITING, Evict, Leave, Liveness, Machine, Outcome, Stored, Ticket
from interlock.errors import InterlockError, Mismatch, RecordInvalid, Unavailable
from interlock.holder import Holder
from interlock.stores import _kernel_lock, _mount, _sessions
from interlock.stores._envelope import prefix, unseal
from interlock.stores._futex import slot
from interlock.stores._record import Damage, RecordFile, invalid
from interlock.stores._sessions import Sessions
from interlock.stores._shelf import RETIRED, Shelf
from interlock.stores._space import Space, file_name, reaching, remaining, unusable

REPOLL_S = 0.1  # at most so long until a waiter on this host looks again, and at whoever it is behind
SHARED_REPOLL_S = 0.25  # the cap where other hosts may be involved and wake-ups do not reach us
OPEN_FILES = 256  # record files kept open
CHECK_S = 0.01  # how long a record file is trusted to be still the one at its path
_GIVING_BACK = (Leave, Evict)  # what a full disk must not stop


class FileStore:
    """One space as this process uses it; every session of the process shares it."""

    def __init__(self, url: str, path: str, primitive: str | None = None) -> None:
        self.url = url
        self.attachments = os.path.join(path, "attachments")
        self.path = path
        self._wanted = primitive
        self._space: Space | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Own nothing: a new store, or the child's side of a fork."""
        self._guard = threading.Lock()
        self._files: OrderedDict[str, RecordFile] = OrderedDict()
        self._sessions = Sessions()
        self._seen: dict[Ticket, int] = {}
        self._naps: dict[Ticket, float] = {}
        if self._space is not None:
            self._space.renew_mutex()
            self._take_turns(self._space)

    def _after_fork(self) -> None:
        """Close inherited descriptors: they would keep the parent's locks alive, and would not exclude it."""
        for file in self._files.values():
            file.close()
        self._sessions.close_all()
        self._start_afresh()

    def __del__(self) -> None:
        """Close what nobody uses any more: a process may visit thousands of spaces."""
        try:
            for file in self._files.values():
                file.close()
            self._sessions.close_all()
            if self._space is not None:
                self._space.close()
        except Exception:  # at the interpreter's end modules go before us, and the kernel closes everything
            pass

    # -- the space

    def _opened(self, *, create: bool = True) -> Space:
        if self._space is None:
            with self._guard:
                if self._space is None:
                    self._enter(Space(self.path, self._wanted, create=create))
        return self._space  # type: ignore[return-value]

    def _enter(self, space: Space) -> None:
        self._try_lock, self._unlock = space.primitive.try_lock, space.primitive.unlock
        self._take_turns(space)
        self._shared = _mount.may_be_shared(self.path)
        self._space = space

    def _take_turns(self, space: Space) -> None:
        """Where the kernel locks are the process's own, its threads take turns in all that they do with the space."""
        self._turn = threading.Lock() if space.primitive.per_process else None
        self._shelf = Shelf(space, self.url, self._turn or nullcontext())

    def _existing(self) -> Space | None:
        """The space if there is one; looking at a scope that nobody has used finds nothing and makes nothing."""
        if self._space is None:
            try:
                os.stat(os.path.join(self.path, "settings.json"), follow_symlinks=False)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise unusable(self.path, error) from error
        return self._opened(create=False)

    def _current(self) -> Space:
        """The space, made anew if somebody removed it: sessions go on in the new one, what they held is lost."""
        space = self._opened()
        if space.removed():
            with self._guard:
                if self._space is space:
                    fresh = Space(self.path, self._wanted, create=True)
                    self._sessions.move(fresh)
                    self._enter(fresh)
        return self._opened()

    # -- transact

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        while True:
            file = self._files.get(name) or self._open_record(name, machine, deadline)
            if not file.mutex.acquire(False) and not file.mutex.acquire(timeout=remaining(deadline)):
                raise self._busy(name, file)
            try:
                if file.fd < 0:
                    self._drop(name, file)
                    continue
                outcome = self._peek(name, file, machine, op) if self._seen else None
                if outcome is None:
                    outcome = self._transact_locked(name, file, machine, op, deadline)
            except InterlockError:  # some of ours are an OSError too
                raise
            except OSError as error:
                raise unusable(file.path, error) from error
            finally:
                file.mutex.release()
            if outcome is None:
                self._current()
                self._shelf.bury(name, deadline)
                continue
            for ticket in outcome.unpark:
                self._unpark(ticket)
            return outcome

    def _transact_locked(
        self, name: str, file: RecordFile, machine: Machine, op: Any, deadline: float | None
    ) -> Outcome | None:
        """One step under the record's locks; None if the file is no longer the record and must be opened again."""
        fd = file.fd
        try:
            if not self._try_lock(fd) and not _kernel_lock.acquire(self._opened().primitive, fd, deadline):
                raise self._busy(name, file)
            line = file.read()
            if line == RETIRED or not self._in_place(file):
                self._drop(name, file)
                return None
            if file.kind != machine.kind:
                raise Mismatch.of_kind(name, file.kind, machine.kind, self.url)
            record = file.record if line is None else self._decoded(name, file, line, machine)
            after, outcome = machine.apply(record, op)
            if after is not record:
                line = b"%b%b}\n" % (file.prefix, machine.encode(after).encode())
                file.write(line, spend=type(op) in _GIVING_BACK)
            file.record = after
            if self._seen or outcome.state == WAITING:
                self._note(op, outcome)
            return outcome
        except Damage as damage:
            self._drop(name, file)
            raise invalid(file.path, damage, name=name, scope=self.url) from None
        except BaseException:
            file.forget()
            raise
        finally:
            if file.fd >= 0:
                self._unlock(fd)

    def _peek(self, name: str, file: RecordFile, machine: Machine, op: Any) -> Outcome | None:
        """The outcome of an op that changes nothing, from one consistent read; None if it takes a transaction.

        Whoever asks again after a wake-up finds its answer written, and need not contend for the record.
        """
        ticket = getattr(op, "ticket", None)
        if ticket not in self._seen:
            return None
        word = self._word(ticket)
        try:
            line = file.read()
            if line is not None:
                if line == RETIRED:
                    raise Damage("it was removed")
                file.record = self._decoded(name, file, line, machine)
        except Damage:
            file.forget()  # a writer is at work, or worse: the transaction will tell
            return None
        if file.kind != machine.kind or not self._in_place(file):
            return None
        after, outcome = machine.apply(file.record, op)
        if after is not file.record:
            return None
        self._note(op, outcome, word)
        return outcome

    def _note(self, op: Any, outcome: Outcome, word: int | None = None) -> None:
        """Remember the wake-up word of a ticket that waits, as it was before its record was read."""
        if outcome.state == WAITING:
            self._seen[op.ticket] = self._word(op.ticket) if word is None else word
        else:
            self._seen.pop(getattr(op, "ticket", None), None)  # type: ignore[arg-type]

    def _decoded(self, name: str, file: RecordFile, line: bytes, machine: Machine) -> Any:
        """The record in a line that this process sees for the first time."""
        if not line.startswith(file.prefix):
            found, kind, _ = unseal(line)
            if found != name:
                raise Damage(f"it holds the record of {found!r}")
            raise Mismatch.of_kind(name, kind, machine.kind, self.url)
        try:
            return machine.decode(line[len(file.prefix) : -2].decode())
        except ValueError as error:
            raise Damage(f"its record is not sound ({error})") from None

    def _in_place(self, file: RecordFile) -> bool:
        """Whether the open file is still linked; a cleaner may have removed it under us. Asked at most every 10 ms."""
        now = time.monotonic()
        if now - file.checked > CHECK_S:
            file.checked = now
            return os.fstat(file.fd).st_nlink > 0
        return True

    def _drop(self, name: str, file: RecordFile) -> None:
        file.close()
        if self._files.get(name) is file:
            del self._files[name]

    def _busy(self, name: str, file: RecordFile) -> Unavailable:
        return Unavailable(
            f"the record of {name!r} was locked by another process for the whole time, which is a stopped process or a "
            f"hung file system: {file.path}",
            name=name,
            scope=self.url,
        )

    # -- record files

    def _open_record(self, name: str, machine: Machine, deadline: float | None) -> RecordFile:
        self._current()
        shelf, filed = self._shelf, file_name(name)
        while (fd := shelf.open(filed, os.O_RDWR, name)) is None:
            shelf.create(name, machine, deadline)
        with self._guard:
            if name in self._files:
                with self._turn or nullcontext():
                    os.close(fd)
                return self._files[name]
            file = RecordFile(fd, shelf.path(filed), machine.kind, prefix(name, machine.kind), self._turn)
            self._files[name] = file
            self._close_idle_files()
        return file

    def _close_idle_files(self) -> None:
        for name in list(self._files)[: max(0, len(self._files) - OPEN_FILES)]:
            file = self._files[name]
            if file.mutex.acquire(blocking=False):
                self._drop(name, file)
                file.mutex.release()

    # -- park and unpark

    def _word(self, ticket: Ticket) -> int:
        words = self._opened().words
        return 0 if words is None else words.read(slot(*ticket))

    def _unpark(self, ticket: Ticket) -> None:
        words = self._opened().words
        if words is not None:
            words.wake(slot(*ticket))

    def park(self, ticket: Ticket, timeout: float) -> None:
        seen, words = self._seen.get(ticket, 0), self._opened().words
        if timeout <= 0:
            return
        nap = REPOLL_S
        if self._shared or words is None:
            nap = self._naps[ticket] = min(self._naps.pop(ticket, 0.002) * 1.5, SHARED_REPOLL_S)
            nap *= random.uniform(0.5, 1.0)
            if len(self._naps) > OPEN_FILES:
                self._naps.clear()
        if words is None:
            time.sleep(min(timeout, nap))
        else:
            words.sleep(slot(*ticket), seen, min(timeout, nap))

    # -- sessions

    def open_session(self, holder: Holder, ttl_s: float) -> str:
        session = os.urandom(8).hex()
        self._sessions.begin(self._current(), session, holder)
        return session

    def close_session(self, session: str, *, forget: bool = True) -> None:
        self._sessions.end(self._opened(), session, forget)

    def alive(self, session: str) -> Liveness:
        try:
            space = self._opened(create=False)
        except InterlockError as error:
            return Liveness("unknown", f"the space cannot be looked at ({error})")
        return self._sessions.alive(space, session)

    def sessions(self) -> Iterator[str]:
        space = self._existing()
        return iter(()) if space is None else _sessions.names(space)

    def forget_session(self, session: str) -> None:
        self._sessions.forget(self._opened(), session)

    # -- looking and tidying

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        return iter(()) if self._existing() is None else self._shelf.all(prefix)

    def read(self, name: str) -> Stored | None:
        if self._existing() is None:
            return None
        found = self._shelf.look(file_name(name))
        if isinstance(found, RecordInvalid):
            raise invalid(found.path, found.damage, name=name, scope=self.url)
        return found

    def retire(self, name: str, machine: Machine) -> bool:
        self._opened()
        return self._shelf.retire(name, machine)

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        self._opened()
        return self._shelf.discard(name, unreadable)

    def audit(self, line: str) -> None:
        space = self._opened()
        with reaching(os.path.join(self.path, "audit.log")):
            fd = space.open("audit.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, space.root)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)


_stores: weakref.WeakValueDictionary[str, FileStore] = weakref.WeakValueDictionary()
_registry = threading.Lock()


def open_store(url: str) -> FileStore:
    """The store of a ``file://`` URL; a process has one store for a directory, however the directory is spelled.

    ``?primitive=flock`` (or ofd, lockf) chooses the kernel lock of a new space; an existing one keeps its own.
    """
    parts = urlsplit(url)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    primitive = options.pop("primitive", None)
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path or options or parts.fragment:
        raise Unavailable(f"{url!r} is not file:///absolute/path or file:///absolute/path?primitive=ofd", scope=url)
    if primitive is not None and primitive not in _kernel_lock.PRIMITIVES:
        raise Unavailable(f"{url!r}: this system has {', '.join(_kernel_lock.PRIMITIVES)}", scope=url)
    real = os.path.realpath(path)
    with _registry:
        store = _stores.get(real)
        if store is None:
            store = _stores[real] = FileStore(f"file://{quote(os.fsencode(real))}", real, primitive)
    return store


def _close_inherited() -> None:
    global _registry
    _registry = threading.Lock()
    for store in list(_stores.values()):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
