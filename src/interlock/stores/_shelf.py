"""The shelf: record files as files. They are made, looked at, removed and set aside here, each through a descriptor of
its own; what is in them changes in `stores.file` alone.

Whoever adds or removes a file holds the space's lock. A file is removed in two steps: it is marked `RETIRED` under its
kernel lock, then unlinked; whoever has it open sees the mark and opens the name anew. A removal whose author died in
between is finished by the next one who comes by (`bury`). Tokens outlive the file: the space's floor is raised first.

Layer: under `stores.file`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from interlock.abc import Machine, Stored
from interlock.errors import RecordInvalid, Unavailable
from interlock.stores import _kernel_lock
from interlock.stores._envelope import prefix, unseal
from interlock.stores._record import Damage, RecordFile, blank, invalid, read_unlocked
from interlock.stores._space import Space, file_name, reaching

RETIRED = b'{"kind":"retired"}\n'
LEAP = 1 << 32  # tokens skipped when a record is lost and its last token with it
REACH_S = 1.0  # how long a record may be locked by others before its removal gives up


class Shelf:
    """The record files of a space. While `hush` is held, no transaction of this process is under way, where the kernel
    lock is one that a process loses when it closes any descriptor of the file."""

    def __init__(self, space: Space, url: str, hush: AbstractContextManager[object]) -> None:
        self._space = space
        self._url = url
        self._hush = hush

    def path(self, filed: str) -> str:
        return os.path.join(self._space.path, "records", filed)

    def open(self, filed: str, flags: int, name: str | None = None) -> int | None:
        """A record's file, None if there is none; anything else that lies in its place is refused."""
        with reaching(self.path(filed)):
            try:
                return self._space.open(filed, flags, self._space.records)
            except FileNotFoundError:
                return None
            except RecordInvalid as error:
                raise invalid(self.path(filed), error.damage, name=name, scope=self._url) from None

    def create(self, name: str, machine: Machine, deadline: float | None) -> None:
        """Publish a whole, idle record; its tokens start above all that removed records gave out."""
        with self._space.locked(deadline):
            text = machine.encode(machine.initial(self._space.floor()))
            line = b"%b%b}\n" % (prefix(name, machine.kind), text.encode())
            self._space.publish(file_name(name), self._space.records, blank(line))

    def look(self, filed: str) -> Stored | RecordInvalid | None:
        """What a file says, read without any lock."""
        with self._hush, self._opened(filed) as fd:
            return self._content(filed, fd)

    def all(self, prefix: str) -> Iterator[Stored | RecordInvalid]:
        """What every file says whose record's name starts with `prefix`, and what is wrong with the others."""
        with reaching(self._space.path):
            found = sorted(os.listdir(self._space.records))
        for filed in found:
            content = None if filed.startswith(".") else self.look(filed)
            if isinstance(content, RecordInvalid) or (content is not None and content.name.startswith(prefix)):
                yield content

    def retire(self, name: str, machine: Machine) -> bool:
        """Remove a record if it is idle."""
        filed = file_name(name)
        with self._space.locked(), self._hush, self._opened(filed, os.O_RDWR) as fd:
            content = self._locked_content(filed, fd)
            if not isinstance(fd, int) or not isinstance(content, Stored) or content.kind != machine.kind:
                return False
            try:
                record = machine.decode(content.text)
            except ValueError:
                return False
            if not machine.idle(record):
                return False
            self._space.raise_floor(machine.token(record))
            self._remove(filed, fd)
        return True

    def discard(self, name: str, unreadable: str | None) -> str | None:
        """Set a record aside that is damaged, or that says exactly what somebody found `unreadable`."""
        filed = file_name(name)
        aside = f".damaged-{filed}-{os.urandom(4).hex()}"
        with self._space.locked(), self._hush, self._opened(filed, os.O_RDWR) as fd:
            content = self._locked_content(filed, fd)
            if content is None or (isinstance(content, Stored) and content.text != unreadable):
                return None
            self._space.raise_floor(self._space.floor() + LEAP)
            if isinstance(fd, int):
                self._space.publish(aside, self._space.records, os.pread(fd, os.fstat(fd).st_size, 0))
                self._remove(filed, fd)
            else:  # not a file at all, so nobody has it open
                os.rename(filed, aside, src_dir_fd=self._space.records, dst_dir_fd=self._space.records)
        return self.path(aside)

    def bury(self, name: str, deadline: float | None) -> None:
        """Finish a removal whose author died between the mark and the unlink."""
        filed = file_name(name)
        with self._space.locked(deadline), self._hush, self._opened(filed) as fd:
            if isinstance(fd, int) and _line(fd) == RETIRED:
                os.unlink(filed, dir_fd=self._space.records)

    @contextmanager
    def _opened(self, filed: str, flags: int = os.O_RDONLY) -> Iterator[int | RecordInvalid | None]:
        """The file's descriptor; None if there is no file, an error if it is none of ours."""
        try:
            fd = self.open(filed, flags)
        except RecordInvalid as error:
            yield error
            return
        if fd is None:
            yield None
            return
        try:
            with reaching(self.path(filed)):
                yield fd
        finally:
            os.close(fd)

    def _locked_content(self, filed: str, fd: int | RecordInvalid | None) -> Stored | RecordInvalid | None:
        """The content under the record's kernel lock, which lasts until the descriptor is closed."""
        if isinstance(fd, int) and not _kernel_lock.acquire(self._space.lock, fd, time.monotonic() + REACH_S):
            raise Unavailable(f"the record {self.path(filed)} is locked by another process", scope=self._url)
        return self._content(filed, fd)

    def _content(self, filed: str, fd: int | RecordInvalid | None) -> Stored | RecordInvalid | None:
        if not isinstance(fd, int):
            return fd
        try:
            version, line = read_unlocked(fd)
            if line == RETIRED:
                return None
            name, kind, text = unseal(line)
        except Damage as damage:
            return invalid(self.path(filed), damage, scope=self._url)
        return Stored(name, kind, version, text)

    def _remove(self, filed: str, fd: int) -> None:
        """Mark and unlink a file whose kernel lock is held."""
        file = RecordFile(fd, self.path(filed))
        try:
            file.read()
            file.write(RETIRED, spend=True)
        except Damage:
            os.pwrite(fd, blank(RETIRED), 0)
        os.unlink(filed, dir_fd=self._space.records)


def _line(fd: int) -> bytes | None:
    try:
        return read_unlocked(fd)[1]
    except Damage:
        return None
