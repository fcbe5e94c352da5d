"""Records without kernel locks: every version of a record is a file of its own, claimed by a hard link.

For mounts whose kernel locks exclude nobody on other hosts. Nothing is ever locked, so nobody can die holding a lock:

1. A record is a directory, its newest version the file with the largest number. A version never changes.
2. A step reads version n, writes its successor beside it, and links that as n + 1. A link does not replace: of all who
   read n one succeeds, and the others read again. So a write happens only to the version that was read.
3. The last `KEPT` versions stay, and older names are removed. Whoever slept since long ago may thereby find its number
   free again. So every version carries a mark of its own and that of the version it followed; and who has linked looks
   once more: if no unbroken chain of marks leads from its version to the newest, it linked into the past, takes that
   back, and asks again. Nobody is misled meanwhile, as the newest stays the newest.
4. Giving back always writes a version, so that a request sent earlier and linked late finds its number taken.
5. A record's numbers go on for ever. One that is removed becomes `VOID`: it says nothing but the floor of later tokens.

Whether an answer was lost (the error of a network file system says neither yes nor no) is found out by reading what
stands at that number. What breaks it: a mount where a link replaces a name or is not seen by
the next listing, which `interlock doctor` measures; more than `KEPT` writes during the listing of some 20 names.

Layer: under `stores.file`.
"""

from __future__ import annotations

import errno
import os
import random
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from interlock.abc import Evict, Leave, Machine, Outcome, Stored
from interlock.errors import Mismatch, OutcomeUnknown, RecordInvalid, Unavailable
from interlock.stores._envelope import prefix, unseal
from interlock.stores._heartbeat import Heartbeats
from interlock.stores._record import HEADER, LIMIT_BYTES, Damage, header, invalid, read_line
from interlock.stores._space import Space, file_name, reaching
from interlock.stores._waiting import Waiting

VOID = "void"
LEAP = 1 << 32  # tokens skipped for each version of a record that is lost, and its last token with it
KEPT = 8  # versions that stay before the newest
LEFT_S = 3600.0  # a draft this much older than a new one was left by somebody who died
_GIVING_BACK = (Leave, Evict)
_DIGITS = 16
_NUMBERED = re.compile(rf"[0-9]{{{_DIGITS}}}")
_MARKS = b"mark %16b after %16b\n"
_NOTHING = b"0" * 16  # the mark of what is before the first version
_MARKED = len(_MARKS % (_NOTHING, _NOTHING))
_LONGEST_PAUSE_S = 0.05
LOOK_S = 5.0  # how long a look tries to read a record that others write


class ClaimedRecords:
    """The records of a space as this process uses them."""

    def __init__(self, space: Space, url: str, waiting: Waiting, sessions: Heartbeats) -> None:
        self._space = space
        self._url = url
        self._waiting = waiting
        self._sessions = sessions

    def close(self) -> None:
        """Nothing is kept open."""

    def path(self, filed: str) -> str:
        return os.path.join(self._space.path, "records", filed)

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome | None:
        """One step of a machine; None if somebody removed the space."""
        filed, earlier = file_name(name), None
        ticket = getattr(op, "ticket", None)
        word = None if ticket is None else self._waiting.word(ticket)
        for _ in _tries(deadline):
            if self._space.removed():
                return None
            if ticket is not None and type(op) is not Leave:
                self._sessions.demand(ticket.session)
            # No file there: others went on while this one read, or a cleaner came. Nothing was written.
            with reaching(self.path(filed)), suppress(FileNotFoundError):
                with self._folder(filed) as folder:
                    version, mark, record = self._decoded(name, machine, folder)
                    after, outcome = machine.apply(record, op)
                    if outcome.state == "gone" and earlier is not None:
                        return earlier  # what this very call did before others went on
                    settled: bool | None = True
                    if after is not record or type(op) in _GIVING_BACK:
                        line = b"%b%b}\n" % (prefix(name, machine.kind), machine.encode(after).encode())
                        settled = self._claim(folder, version + 1, line, mark)
                if settled:
                    self._waiting.note(op, outcome, word)
                    return outcome
                if settled is None:
                    earlier = outcome
        raise self._contended(name, earlier)

    @contextmanager
    def _folder(self, filed: str, *, create: bool = True) -> Iterator[int]:
        """The record's directory, opened afresh, so that a network file system looks afresh."""
        folder = self._open_folder(filed, create=create)
        try:
            yield folder
        finally:
            with suppress(OSError):  # which would say nothing of what was done in it
                os.close(folder)

    def _open_folder(self, filed: str, *, create: bool) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(filed, flags, dir_fd=self._space.records)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise invalid(self.path(filed), "it is not a directory", scope=self._url) from None
        self._space.make_folder(filed, self._space.records)
        return self._open_folder(filed, create=False)

    def _decoded(self, name: str, machine: Machine, folder: int) -> tuple[int, bytes, Any]:
        """Number, mark and record of the newest version; a name that nobody uses has a version too, which says so."""
        try:
            version, line, mark = self._newest(folder)
            found, kind, text = unseal(line or _void(name, 0))
            if found != name:
                raise Damage(f"it holds the record of {found!r}")
            if kind == VOID:
                return version, mark, machine.initial(int(text))
            if kind != machine.kind:
                raise Mismatch.of_kind(name, kind, machine.kind, self._url)
            return version, mark, _sound(machine, text)
        except Damage as damage:
            raise invalid(self.path(file_name(name)), damage, name=name, scope=self._url) from None

    def _newest(self, folder: int) -> tuple[int, bytes, bytes]:
        """Number, line and mark of the newest version; 0 and nothing if there is none.

        Raises: FileNotFoundError: others went on meanwhile, so that it is old and removed.
        """
        version = max(_versions(folder), default=0)
        if not version:
            return 0, b"", _NOTHING
        content = self._read(folder, version)
        found, _, line = read_line(None, content)
        if found != version:
            raise Damage(f"version {version} says that it is version {found}")
        return version, line, _marks(content)[0]

    def _read(self, folder: int, version: int) -> bytes:
        try:
            fd = self._space.open(_numbered(version), os.O_RDONLY, folder)
        except RecordInvalid as error:
            raise Damage(error.damage) from None
        try:
            return os.pread(fd, LIMIT_BYTES + 2 * HEADER, 0)
        finally:
            os.close(fd)

    def _claim(self, folder: int, version: int, line: bytes, before: bytes) -> bool | None:
        """Make `line` that version, after the one with the mark `before`: True if it is, False if others were first,
        None if it is the past already.

        Raises: OutcomeUnknown: the file system tells neither. OSError: nothing was written.
        """
        if len(line) > LIMIT_BYTES:
            raise Unavailable(f"a record would be larger than {LIMIT_BYTES} bytes", scope=self._url)
        draft, mark = f".{os.urandom(8).hex()}", os.urandom(8).hex().encode()
        content = header(version, HEADER, line) + line + _MARKS % (mark, before)
        fd = self._space.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, folder)
        try:
            try:
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it took a part, and nothing changed
                made = os.fstat(fd).st_mtime
            finally:
                os.close(fd)
            if not self._link(folder, draft, version, content):
                return False
        finally:
            with suppress(OSError):
                os.unlink(draft, dir_fd=folder)
        try:
            if self._stands(folder, version, mark):
                self._tidy(folder, version, made)
                return True
            with suppress(FileNotFoundError):
                if self._says(folder, version, content):
                    os.unlink(_numbered(version), dir_fd=folder)
            return None
        except OSError as error:
            raise self._silent(error) from error

    def _stands(self, folder: int, version: int, mark: bytes) -> bool:
        """Whether the newest version goes back to this one."""
        try:
            newest = max(_versions(folder), default=0)
            if newest < version:
                return False
            for later in range(version + 1, newest + 1):
                found, before = _marks(self._read(folder, later))
                if before != mark:
                    return False
                mark = found
        except (FileNotFoundError, Damage):
            return False
        return True

    def _says(self, folder: int, version: int, content: bytes) -> bool:
        """Whether exactly this stands at that version."""
        try:
            return self._read(folder, version) == content
        except Damage:
            return False

    def _link(self, folder: int, draft: str, version: int, content: bytes) -> bool:
        """Whether the draft is that version now. An answer can be wrong: a request that is sent twice finds itself."""
        try:
            os.link(draft, _numbered(version), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return True
        except OSError as error:
            try:
                return self._says(folder, version, content)
            except FileNotFoundError:
                if isinstance(error, FileExistsError):  # taken, and removed by now
                    return False
                raise error from None
            except OSError:
                raise self._silent(error) from error

    def _silent(self, error: OSError) -> OutcomeUnknown:
        return OutcomeUnknown(f"{self._space.path} does not answer ({error})", scope=self._url)

    def _tidy(self, folder: int, version: int, made: float) -> None:
        """Remove what is old, and drafts that nobody is at work on, as far as the file system lets us."""
        with suppress(OSError):
            for old in _versions(folder):
                if old < version - KEPT:
                    with suppress(OSError):
                        os.unlink(_numbered(old), dir_fd=folder)
            for name in os.listdir(folder) if version % 64 == 0 else ():
                with suppress(OSError):
                    if name.startswith(".") and os.stat(name, dir_fd=folder).st_mtime < made - LEFT_S:
                        os.unlink(name, dir_fd=folder)

    def _contended(self, name: str, earlier: Outcome | None) -> Unavailable | OutcomeUnknown:
        text = f"the record of {name!r} was written by others for the whole time: {self.path(file_name(name))}"
        return (Unavailable if earlier is None else OutcomeUnknown)(text, name=name, scope=self._url)

    # -- looking and tidying

    def look(self, filed: str) -> Stored | RecordInvalid | None:
        """What a record says; None if nobody uses it."""
        path = self.path(filed)
        with reaching(path):
            try:
                with self._folder(filed, create=False) as folder:
                    for _ in _tries(time.monotonic() + LOOK_S):
                        with suppress(FileNotFoundError):  # others went on
                            version, line, _ = self._newest(folder)
                            name, kind, text = unseal(line or _void("", 0))
                            return None if kind == VOID else Stored(name, kind, version, text)
            except FileNotFoundError:
                return None
            except Damage as damage:
                return invalid(path, damage, scope=self._url)
            except RecordInvalid as error:
                return error
        raise Unavailable(f"{path} changes faster than it can be read", scope=self._url)

    def all(self, prefix: str) -> Iterator[Stored | RecordInvalid]:
        """What every record says whose name starts with `prefix`, and what is wrong with the others."""
        with reaching(self._space.path):
            found = sorted(os.listdir(self._space.records))
        for filed in found:
            content = None if filed.startswith(".") else self.look(filed)
            if isinstance(content, RecordInvalid) or (content is not None and content.name.startswith(prefix)):
                yield content

    def retire(self, name: str, machine: Machine) -> bool:
        """Make an idle record void."""
        filed = file_name(name)
        content = self.look(filed)
        if not isinstance(content, Stored) or content.kind != machine.kind:
            return False
        with reaching(self.path(filed)), suppress(FileNotFoundError), self._folder(filed) as folder:
            version, mark, record = self._decoded(name, machine, folder)
            line = _void(name, machine.token(record))
            return machine.idle(record) and bool(self._claim(folder, version + 1, line, mark))
        return False  # others went on

    def discard(self, name: str, unreadable: str | None) -> str | None:
        """Make a record void that is damaged, or that says exactly what somebody found `unreadable`."""
        filed = file_name(name)
        with reaching(self.path(filed)):
            content = self.look(filed)
            if content is None or (isinstance(content, Stored) and content.text != unreadable):
                return None
            aside = f".damaged-{filed}-{os.urandom(4).hex()}"
            if not stat.S_ISDIR(os.stat(filed, dir_fd=self._space.records, follow_symlinks=False).st_mode):
                os.rename(filed, aside, src_dir_fd=self._space.records, dst_dir_fd=self._space.records)
            with self._folder(filed) as folder:
                version = max(_versions(folder), default=0)
                if version:
                    self._keep(folder, _numbered(version), aside)
                self._claim(folder, version + 1, _void(name, (version + 1) * LEAP), _NOTHING)
        return self.path(aside)

    def _keep(self, folder: int, version: str, aside: str) -> None:
        """Give what cannot be read a second name among the records; a directory, which has only one, is moved there."""
        try:
            os.link(version, aside, src_dir_fd=folder, dst_dir_fd=self._space.records, follow_symlinks=False)
        except PermissionError:
            os.rename(version, aside, src_dir_fd=folder, dst_dir_fd=self._space.records)


def _tries(deadline: float | None) -> Iterator[None]:
    """Once, and then again and again until the deadline, with pauses that grow."""
    pause = 0.001
    yield
    while deadline is None or time.monotonic() < deadline:
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        yield


def _void(name: str, floor: int) -> bytes:
    """The line of a name that nobody uses; new tokens of it start above `floor`."""
    return b"%b%d}\n" % (prefix(name, VOID), floor)


def _sound(machine: Machine, text: str) -> Any:
    try:
        return machine.decode(text)
    except ValueError as error:
        raise Damage(f"its record is not sound ({error})") from None


def _marks(content: bytes) -> tuple[bytes, bytes]:
    """The mark of a version and that of the one it followed."""
    words = content[-_MARKED:].split()
    if len(words) != 4:
        raise Damage("its mark is damaged")
    return words[1], words[3]


def _numbered(version: int) -> str:
    return f"{version:0{_DIGITS}}"


def _versions(folder: int) -> list[int]:
    """The versions that a directory holds now."""
    os.lseek(folder, 0, os.SEEK_SET)
    return [int(name) for name in os.listdir(folder) if _NUMBERED.fullmatch(name)]
