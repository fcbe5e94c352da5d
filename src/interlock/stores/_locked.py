"""Records under kernel locks: one file for each, changed in place by whoever holds the lock of the file itself.

The kernel lock is held from the read to the write, so no write can come late; the record survives a SIGKILL at any
instant (`stores._record`). Nothing is created or renamed after a name's first use. After ``fork`` the child closes its
copies of the descriptors: they would keep the parent's locks, and would not exclude it.

Layer: under `stores.file`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

from interlock.abc import WAITING, Evict, Leave, Machine, Outcome
from interlock.errors import InterlockError, Mismatch, Unavailable
from interlock.stores import _kernel_lock
from interlock.stores._envelope import prefix, unseal
from interlock.stores._record import Damage, RecordFile, invalid
from interlock.stores._shelf import RETIRED, Shelf
from interlock.stores._space import Space, file_name, remaining, unusable
from interlock.stores._waiting import Waiting

OPEN_FILES = 256  # record files kept open
CHECK_S = 0.01  # how long a record file is trusted to be still the one at its path
GIVING_BACK = (Leave, Evict)  # what a full disk must not stop


class LockedRecords(Shelf):
    """The records of a space as this process uses them."""

    def __init__(self, space: Space, url: str, waiting: Waiting) -> None:
        # Where the kernel locks are the process's own, its threads take turns in all that they do with the space.
        self._turn = threading.Lock() if space.lock.per_process else None
        super().__init__(space, url, self._turn or nullcontext())
        self._waiting = waiting
        self._try_lock, self._unlock = space.lock.try_lock, space.lock.unlock
        self._guard = threading.Lock()
        self._files: OrderedDict[str, RecordFile] = OrderedDict()

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()

    def __del__(self) -> None:
        """Close what is left open in a space that somebody removed, once no thread is at work in it."""
        try:
            self.close()
        except Exception:  # at the interpreter's end modules go before us, and the kernel closes everything
            pass

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome | None:
        """One step of a machine; None if somebody removed the space."""
        while True:
            file = self._files.get(name) or self._open_record(name, machine, deadline)
            if file is None:
                return None
            if not file.mutex.acquire(False) and not file.mutex.acquire(timeout=remaining(deadline)):
                raise self._busy(name, file)
            try:
                if file.fd < 0:
                    self._drop(name, file)
                    continue
                outcome = self._peek(name, file, machine, op) if self._waiting.seen else None
                if outcome is None:
                    outcome = self._transact_locked(name, file, machine, op, deadline)
            except InterlockError:  # some of ours are an OSError too
                raise
            except OSError as error:
                raise unusable(file.path, error) from error
            finally:
                file.mutex.release()
            if outcome is not None:
                return outcome
            if not self._space.removed():
                self.bury(name, deadline)

    def _transact_locked(
        self, name: str, file: RecordFile, machine: Machine, op: Any, deadline: float | None
    ) -> Outcome | None:
        """One step under the record's locks; None if the file is no longer the record and must be opened again."""
        fd = file.fd
        try:
            if not self._try_lock(fd) and not _kernel_lock.acquire(self._space.lock, fd, deadline):
                raise self._busy(name, file)
            line = file.read()
            if line == RETIRED or not self._in_place(file):
                self._drop(name, file)
                return None
            if file.kind != machine.kind:
                raise Mismatch.of_kind(name, file.kind, machine.kind, self._url)
            record = file.record if line is None else self._decoded(name, file, line, machine)
            after, outcome = machine.apply(record, op)
            if after is not record:
                line = b"%b%b}\n" % (file.prefix, machine.encode(after).encode())
                file.write(line, spend=type(op) in GIVING_BACK)
            file.record = after
            if self._waiting.seen or outcome.state == WAITING:
                self._waiting.note(op, outcome)
            return outcome
        except Damage as damage:
            self._drop(name, file)
            raise invalid(file.path, damage, name=name, scope=self._url) from None
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
        if ticket not in self._waiting.seen:
            return None
        word = self._waiting.word(ticket)
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
        self._waiting.note(op, outcome, word)
        return outcome

    def _decoded(self, name: str, file: RecordFile, line: bytes, machine: Machine) -> Any:
        """The record in a line that this process sees for the first time."""
        if not line.startswith(file.prefix):
            found, kind, _ = unseal(line)
            if found != name:
                raise Damage(f"it holds the record of {found!r}")
            raise Mismatch.of_kind(name, kind, machine.kind, self._url)
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
            scope=self._url,
        )

    def _open_record(self, name: str, machine: Machine, deadline: float | None) -> RecordFile | None:
        filed = file_name(name)
        while not self._space.removed():
            fd = self.open(filed, os.O_RDWR, name)
            if fd is not None:
                return self._remember(name, machine, fd, self.path(filed))
            self.create(name, machine, deadline)
        return None

    def _remember(self, name: str, machine: Machine, fd: int, path: str) -> RecordFile:
        with self._guard:
            if name in self._files:
                with self._turn or nullcontext():
                    os.close(fd)
                return self._files[name]
            file = RecordFile(fd, path, machine.kind, prefix(name, machine.kind), self._turn)
            self._files[name] = file
            self._close_idle_files()
        return file

    def _close_idle_files(self) -> None:
        for name in list(self._files)[: max(0, len(self._files) - OPEN_FILES)]:
            file = self._files[name]
            if file.mutex.acquire(blocking=False):
                self._drop(name, file)
                file.mutex.release()
