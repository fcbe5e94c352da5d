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

import errno
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit
from zlib import crc32

from interlock.abc import WAITING, Evict, Leave, Liveness, Machine, Outcome, Stored, Ticket
from interlock.errors import InterlockError, Mismatch, RecordInvalid, Unavailable
from interlock.holder import Holder
from interlock.stores import _futex, _kernel_lock, _mount
from interlock.stores._envelope import prefix, unseal
from interlock.stores._record import Damage, RecordFile, blank, invalid, read_unlocked
from interlock.stores._space import Space, file_name, reaching, unusable

REPOLL_S = 0.1  # at most so long until a waiter on this host looks again, and at whoever it is behind
SHARED_REPOLL_S = 0.25  # the cap where other hosts may be involved and wake-ups do not reach us
OPEN_FILES = 256  # record files kept open
CHECK_S = 0.01  # how long a record file is trusted to be still the one at its path
LEAP = 1 << 32  # tokens skipped when a record is lost and its last token with it
RETIRED = b'{"kind":"retired"}\n'
_GIVING_BACK = (Leave, Evict)  # what a full disk must not stop


class FileStore:
    """One space as this process uses it; every session of the process shares it."""

    def __init__(self, url: str, path: str, primitive: str | None = None) -> None:
        self.url = url
        self.path = path
        self._wanted = primitive
        self._space: Space | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Own nothing: a new store, or the child's side of a fork."""
        self._guard = threading.RLock()
        self._files: OrderedDict[str, RecordFile] = OrderedDict()
        self._mine: dict[str, tuple[int, Holder]] = {}
        self._seen: dict[Ticket, int] = {}
        self._naps: dict[Ticket, float] = {}

    def _after_fork(self) -> None:
        """Close inherited descriptors: they would keep the parent's locks alive, and would not exclude it."""
        for file in self._files.values():
            file.close()
        for fd, _ in self._mine.values():
            os.close(fd)
        self._start_afresh()

    # -- the space

    def _opened(self, *, create: bool = True) -> Space:
        if self._space is None:
            with self._guard:
                if self._space is None:
                    space = Space(self.path, self._wanted, create=create)
                    self._try_lock, self._unlock = space.primitive.try_lock, space.primitive.unlock
                    self._shared = _mount.may_be_shared(self.path)
                    self._words: _futex.Words | None = None
                    self._worded = False
                    self._space = space
        return self._space

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

    def _wake_words(self) -> _futex.Words | None:
        if not self._worded:
            self._words = self._opened().wake_words()
            self._worded = True
        return self._words

    # -- transact

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        while True:
            file = self._files.get(name) or self._open_record(name, machine, deadline)
            if not file.mutex.acquire(False) and not file.mutex.acquire(timeout=_remaining(deadline)):
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
                self._bury(name, deadline)
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
            if line == RETIRED or (time.monotonic() - file.checked > CHECK_S and not self._in_place(file)):
                self._drop(name, file)
                return None
            if file.kind != machine.kind:
                raise self._mismatch(name, file.kind, machine)
            record = file.record if line is None else self._decoded(name, file, line, machine)
            after, outcome = machine.apply(record, op)
            if after is not record:
                line = b"%b%b}\n" % (file.prefix, machine.encode(after).encode())
                file.write(line, spend=type(op) in _GIVING_BACK)
            file.record = after
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
        word = self._words.read(_slot(ticket)) if self._words is not None else 0
        try:
            line = file.read()
            if line is not None:
                if line == RETIRED:
                    raise Damage("it was removed")
                file.record = self._decoded(name, file, line, machine)
        except Damage:
            file.forget()  # a writer is at work, or worse: the transaction will tell
            return None
        if file.kind != machine.kind or time.monotonic() - file.checked > CHECK_S:
            return None
        after, outcome = machine.apply(file.record, op)
        if after is not file.record:
            return None
        self._note(op, outcome, word)
        return outcome

    def _note(self, op: Any, outcome: Outcome, word: int | None = None) -> None:
        """Remember the wake-up word of a ticket that waits, as it was before its record was read."""
        if outcome.state == WAITING:
            if word is None:
                words = self._wake_words()
                word = words.read(_slot(op.ticket)) if words is not None else 0
            self._seen[op.ticket] = word
        elif self._seen:
            self._seen.pop(getattr(op, "ticket", None), None)  # type: ignore[arg-type]

    def _decoded(self, name: str, file: RecordFile, line: bytes, machine: Machine) -> Any:
        """The record in a line that this process sees for the first time."""
        if not line.startswith(file.prefix):
            found, kind, _ = unseal(line)
            if found != name:
                raise Damage(f"it holds the record of {found!r}")
            raise self._mismatch(name, kind, machine)
        try:
            return machine.decode(line[len(file.prefix) : -2].decode())
        except ValueError as error:
            raise Damage(f"its record is not sound ({error})") from None

    def _mismatch(self, name: str, kind: str, machine: Machine) -> Mismatch:
        return Mismatch(f"{name!r} is a {kind} in {self.url}, not a {machine.kind}", name=name, scope=self.url)

    def _in_place(self, file: RecordFile) -> bool:
        """Whether the open file is still linked; a cleaner may have removed it under us."""
        file.checked = time.monotonic()
        return os.fstat(file.fd).st_nlink > 0

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
        filed = file_name(name)
        path = os.path.join(self.path, "records", filed)
        while (fd := self._open_file(filed, os.O_RDWR, self._opened(), name)) is None:
            self._create_record(name, filed, machine, deadline)
        with self._guard:
            if name in self._files:
                os.close(fd)
                return self._files[name]
            self._files[name] = file = RecordFile(fd, path, machine.kind, prefix(name, machine.kind))
            self._close_idle_files()
        return file

    def _open_file(self, filed: str, flags: int, space: Space, name: str | None = None) -> int | None:
        """A record's file, None if there is none; anything else that lies in its place is refused."""
        path = os.path.join(self.path, "records", filed)
        with reaching(path):
            try:
                return space.open(filed, flags, space.records)
            except FileNotFoundError:
                return None
            except RecordInvalid as error:
                raise invalid(path, error.damage, name=name, scope=self.url) from None

    def _close_idle_files(self) -> None:
        for name in list(self._files)[: max(0, len(self._files) - OPEN_FILES)]:
            file = self._files[name]
            if file.mutex.acquire(blocking=False):
                self._drop(name, file)
                file.mutex.release()

    def _create_record(self, name: str, filed: str, machine: Machine, deadline: float | None) -> None:
        """Publish a whole, idle record; its tokens start above all that removed records gave out."""
        space = self._opened()
        with self._guard, space.locked(deadline):
            text = machine.encode(machine.initial(space.floor()))
            space.publish(filed, space.records, blank(b"%b%b}\n" % (prefix(name, machine.kind), text.encode())))

    # -- park and unpark

    def _unpark(self, ticket: Ticket) -> None:
        words = self._wake_words()
        if words is not None:
            words.wake(_slot(ticket))

    def park(self, ticket: Ticket, timeout: float) -> None:
        seen = self._seen.get(ticket, 0)
        if timeout <= 0:
            return
        nap = REPOLL_S
        if self._shared or self._words is None:
            nap = self._naps[ticket] = min(self._naps.pop(ticket, 0.002) * 1.5, SHARED_REPOLL_S)
            nap *= random.uniform(0.5, 1.0)
            if len(self._naps) > OPEN_FILES:
                self._naps.clear()
        if self._words is None:
            time.sleep(min(timeout, nap))
        else:
            self._words.sleep(_slot(ticket), seen, min(timeout, nap))

    # -- sessions

    def open_session(self, holder: Holder, ttl_s: float) -> str:
        space, session = self._opened(), os.urandom(8).hex()
        temporary = f".{session}"
        try:
            fd = space.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, space.sessions)
            try:
                if not self._try_lock(fd):
                    raise OSError(errno.EWOULDBLOCK, "a fresh file is locked")
                os.write(fd, holder.to_json().encode() + b"\n")
                os.rename(temporary, session, src_dir_fd=space.sessions, dst_dir_fd=space.sessions)
            except BaseException:
                os.close(fd)
                os.unlink(temporary, dir_fd=space.sessions)
                raise
        except OSError as error:
            raise unusable(os.path.join(self.path, "sessions"), error) from error
        self._mine[session] = (fd, holder)
        return session

    def close_session(self, session: str) -> None:
        fd, _ = self._mine.pop(session, (-1, None))
        if fd >= 0:
            self.forget_session(session)
            os.close(fd)

    def alive(self, session: str) -> Liveness:
        if session in self._mine:
            return Liveness("alive", "it is a session of this process", self._mine[session][1])
        try:
            space = self._opened(create=False)
            fd = space.open(session, os.O_RDONLY, space.sessions)
        except (OSError, InterlockError) as error:
            return Liveness("unknown", f"its session file cannot be looked at ({error})")
        try:
            holder = _holder(os.pread(fd, 65536, 0))
            if space.primitive.held_by_other(fd):
                return Liveness("alive", "the kernel lock of its session file is held", holder)
            if os.fstat(fd).st_nlink == 0:
                return Liveness("unknown", "it was closed just now", holder)
            return Liveness("dead", "the kernel lock of its session file is free", holder)
        except OSError as error:
            return Liveness("unknown", f"its session file cannot be tested ({error})")
        finally:
            os.close(fd)

    def sessions(self) -> Iterator[str]:
        space = self._existing()
        with reaching(self.path):
            names = os.listdir(space.sessions) if space is not None else []
        return iter(sorted(name for name in names if not name.startswith(".")))

    def forget_session(self, session: str) -> None:
        space = self._opened()
        with reaching(os.path.join(self.path, "sessions", session)), suppress(FileNotFoundError):
            os.unlink(session, dir_fd=space.sessions)

    # -- looking and tidying

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        space = self._existing()
        with reaching(self.path):
            names = sorted(os.listdir(space.records)) if space is not None else []
        for filed in names:
            if not filed.startswith("."):
                found = self._look(filed)
                if isinstance(found, RecordInvalid) or (found is not None and found.name.startswith(prefix)):
                    yield found

    def read(self, name: str) -> Stored | None:
        found = self._look(file_name(name))
        if isinstance(found, RecordInvalid):
            raise invalid(found.path, found.damage, name=name, scope=self.url)
        return found

    def _look(self, filed: str) -> Stored | RecordInvalid | None:
        space, path = self._existing(), os.path.join(self.path, "records", filed)
        if space is None:
            return None
        try:
            fd = self._open_file(filed, os.O_RDONLY, space)
        except RecordInvalid as error:
            return error
        if fd is None:
            return None
        try:
            with reaching(path):
                version, line = read_unlocked(fd)
            if line == RETIRED:
                return None
            name, kind, text = unseal(line)
            return Stored(name, kind, version, text)
        except Damage as damage:
            return invalid(path, damage, scope=self.url)
        finally:
            os.close(fd)

    def retire(self, name: str, machine: Machine) -> bool:
        space, filed = self._opened(), file_name(name)
        with self._guard, space.locked():
            if self.read(name) is None:
                return False
            file = self._files.get(name) or self._open_record(name, machine, None)
            with file.mutex:
                if file.fd < 0 or not _kernel_lock.acquire(space.primitive, file.fd, time.monotonic() + 1.0):
                    return False
                try:
                    line = file.read()
                    record = file.record if line is None else self._decoded(name, file, line, machine)
                    if not machine.idle(record) or not self._in_place(file):
                        file.record = record
                        return False
                    space.raise_floor(machine.token(record))
                    file.write(RETIRED)
                    os.unlink(filed, dir_fd=space.records)
                    return True
                except Damage as damage:
                    raise invalid(file.path, damage, name=name, scope=self.url) from None
                finally:
                    self._drop(name, file)

    def discard(self, name: str) -> str | None:
        space, filed = self._opened(), file_name(name)
        aside = f".damaged-{filed}-{os.urandom(4).hex()}"
        with self._guard, space.locked():
            if not isinstance(self._look(filed), RecordInvalid):
                return None
            space.raise_floor(space.floor() + LEAP)
            try:
                fd = space.open(filed, os.O_RDWR, space.records)
            except (RecordInvalid, IsADirectoryError):  # no file at all, so nobody has it open
                os.rename(filed, aside, src_dir_fd=space.records, dst_dir_fd=space.records)
            else:
                try:
                    if not self._set_aside(filed, fd, aside):
                        return None
                finally:
                    os.close(fd)
        return os.path.join(self.path, "records", aside)

    def _set_aside(self, filed: str, fd: int, aside: str) -> bool:
        """Keep the bytes under another name, and mark the file itself as removed for those who have it open."""
        space = self._opened()
        if not _kernel_lock.acquire(space.primitive, fd, time.monotonic() + 1.0):
            raise Unavailable(f"the damaged record {filed} is locked by another process", scope=self.url)
        if not isinstance(self._look(filed), RecordInvalid):
            return False
        space.publish(aside, space.records, os.pread(fd, os.fstat(fd).st_size, 0))
        os.pwrite(fd, blank(RETIRED), 0)
        os.unlink(filed, dir_fd=space.records)
        return True

    def _bury(self, name: str, deadline: float | None) -> None:
        """Finish a removal whose author died between the last mark and the unlink."""
        space, filed = self._opened(), file_name(name)
        with self._guard, space.locked(deadline):
            fd = self._open_file(filed, os.O_RDONLY, space, name)
            if fd is None:
                return
            try:
                if read_unlocked(fd)[1] == RETIRED:
                    os.unlink(filed, dir_fd=space.records)
            except Damage:
                pass
            finally:
                os.close(fd)

    def audit(self, line: str) -> None:
        space = self._opened()
        with reaching(os.path.join(self.path, "audit.log")):
            fd = space.open("audit.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, space.root)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)


def _slot(ticket: Ticket) -> int:
    return (crc32(ticket.session.encode()) + ticket.serial) % _futex.COUNT


def _remaining(deadline: float | None) -> float:
    return -1.0 if deadline is None else max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))


def _holder(raw: bytes) -> Holder | None:
    try:
        return Holder.from_json(raw.decode())
    except ValueError:
        return None


_stores: dict[str, FileStore] = {}
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
    for store in _stores.values():
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
