"""Entries: one value in one file, which appears whole, is never changed afterwards, and says whether it is damaged.

Layout::

    <the value's bytes>
    {"key":"'abc'","codec":"npy","at":1790000000.0,"by":"ada@node7 pid 4121","seconds":2.5,"length":928,"crc":4055812}
    interlock entry 1 00000125 9f3a01bc

The value comes first, so that other programs read it too: `numpy.load` takes an ``npy`` entry as it is. Then a line
that says what it is, and a tail of fixed length: the version, the length of that line and its checksum. So every byte
is under a checksum or has one possible content, and a file that was cut, extended or changed is told from a whole one.

1. A file gets its name by renaming, when it is complete: whoever opens it finds a whole entry, without a lock.
2. Nothing is synced: after a power failure an entry may be damaged, which its checksum tells.
3. A process checks the checksum when it reads a file for the first time; a file is known by its inode, time and size.
   The writer sets the time from its own clock, in nanoseconds, because file systems count theirs in milliseconds.
4. A large value is mapped, read-only. The file's size is looked at first: a mapping that ends before its file does is
   never touched outside of it. A file that is renamed over or removed stays readable for those who have it mapped.
5. Files are 0600 and directories 0700, or the group's, 0660 and 2770, in a directory that is setgid. What root writes
   belongs to the owner of the directory.

Layer: above `codecs`.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import stat
import time
import zlib
from contextlib import suppress
from typing import Any, NamedTuple

from interlock.codecs import Buffer, Encoded

MAPPED_FROM = 16 * 1024  # bytes; smaller values are read
MAPS = 256  # at one time: each holds a descriptor
_VERSION = 1
_TAIL = b"interlock entry %d %%08d %%08x\n" % _VERSION
_TAIL_BYTES = len(_TAIL % (0, 0))
_TAIL_FORM = re.compile(rb"interlock entry %d (\d{8}) ([0-9a-f]{8})\n" % _VERSION)
_KNOWN = 1 << 14  # files whose checksum a process remembers to have checked
_STALE_READS = 5  # how often a read starts again because the server has dropped the file it had opened
_BUFFERS = 1000  # in one call
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)

Stamp = tuple[int, int, int]


class Damage(Exception):
    """What is wrong with a file in the place of an entry. `inode` is the file's, 0 if it could not be opened."""

    def __init__(self, what: str, inode: int = 0) -> None:
        super().__init__(what)
        self.inode = inode


class Note(NamedTuple):
    """What an entry says of itself: `at` is the wall clock in seconds, `seconds` what the value took to compute."""

    key: str
    codec: str
    at: float
    by: str
    seconds: float
    length: int
    crc: int


class Entry(NamedTuple):
    """An entry as read: the value's bytes, and the stamp and the state of its file."""

    note: Note
    payload: Buffer
    stamp: Stamp
    state: os.stat_result


_UNKNOWN: tuple[None, None] = None, None
_known: dict[str, tuple[Stamp, Note]] = {}
_maps: set[int] = set()


class _Mapping(mmap.mmap):
    """A mapping that is counted for as long as it lives."""

    def __init__(self, *_: Any) -> None:
        _maps.add(id(self))

    def __del__(self, maps: set[int] = _maps) -> None:  # at the interpreter's end the module's names go before us
        maps.discard(id(self))


def stamp(found: os.stat_result) -> Stamp:
    """What tells a file from every other that had or will have its path."""
    return found.st_ino, found.st_mtime_ns, found.st_size


# -- writing


def write(path: str, value: Encoded, *, key: str, by: str = "", seconds: float = 0.0) -> tuple[Note, Stamp]:
    """Write an entry, which takes the place of whatever was there; missing directories are made.

    Args:    value: from `codecs.encode`. key: the text the entry is found by. by: who computed it, in a few words.
             seconds: what it took to compute.
    Raises:  OSError: the disk is full, a directory or no permission is in the way; it names the path. Then, and after
             any other exception, nothing is left behind.
    Crash:   the old file or the new one; a kill leaves the temporary file, ``.NAME.RANDOM.tmp``.
    Cost:    a file created and renamed, and a checksum.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        fd = _fresh(folder, temporary)
        try:
            note = _fill(fd, value, key, by, seconds)
            # Set, not taken from the file system, whose clock gives one time to all files of some milliseconds.
            now = time.time_ns()
            os.utime(fd, ns=(now, now))
            mark = stamp(os.fstat(fd))
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from error
        raise
    _remember(path, mark, note)
    return note, mark


def _fresh(folder: str, temporary: str) -> int:
    """A new file, and its directory if there is none."""
    try:
        owner = os.stat(folder)
    except FileNotFoundError:
        make_directory(folder)
        owner = os.stat(folder)
    fd = os.open(temporary, _WRITE, 0o600)
    try:
        settle_owner(fd, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def settle_owner(fd: int, folder: os.stat_result) -> None:
    """Give a new file the mode and the owner that its directory asks for."""
    if folder.st_mode & stat.S_ISGID:
        os.fchmod(fd, 0o660)
    if os.geteuid() == 0 and folder.st_uid != 0:
        os.fchown(fd, folder.st_uid, folder.st_gid)


def make_directory(path: str) -> None:
    """Make a directory and those above it: 0700, or the group's inside a directory that is setgid."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        return make_directory(path)
    above = os.stat(os.path.dirname(path) or os.curdir)
    if above.st_mode & stat.S_ISGID:
        os.chmod(path, 0o2770)
    if os.geteuid() == 0 and above.st_uid != 0 and not above.st_mode & stat.S_ISVTX:
        os.chown(path, above.st_uid, above.st_gid)


def _fill(fd: int, value: Encoded, key: str, by: str, seconds: float) -> Note:
    crc = 0
    for buffer in value.buffers:
        crc = zlib.crc32(buffer, crc)
    note = Note(key, value.codec, round(time.time(), 3), by, seconds, value.length, crc)
    line = f"\n{_to_json(note._asdict())}\n".encode()
    _write(fd, [*value.buffers, line, _TAIL % (len(line), zlib.crc32(line))])
    return note


def _write(fd: int, buffers: list[bytes | memoryview]) -> None:
    """All of the buffers, in as few calls as the system takes."""
    while buffers:
        done = os.writev(fd, buffers[:_BUFFERS])
        while buffers and done >= len(buffers[0]):
            done -= len(buffers.pop(0))
        if done:
            buffers[0] = memoryview(buffers[0])[done:]


def _remember(path: str, mark: Stamp, note: Note) -> None:
    _known[path] = mark, note
    if len(_known) > _KNOWN:
        with suppress(StopIteration, RuntimeError):  # another thread may do the same
            _known.pop(next(iter(_known)), None)


# -- reading


def read(path: str, *, afresh: bool = False) -> Entry:
    """The entry of a path; its payload can be decoded, and lies in a mapping if it is large.

    Args:   afresh: check the checksum even if this process has checked it before.
    Raises: FileNotFoundError: there is none. Damage: what is there is no whole entry, and why.
            IsADirectoryError, PermissionError and other OSError: it could not be looked at.
    Cost:   open, stat, read or map, close; the first time also a checksum of all.
    """
    for _ in range(_STALE_READS):
        try:
            fd = _open(path)
            try:
                return _read(fd, path, afresh)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            stale = error
    raise stale


def look(path: str) -> tuple[Note, os.stat_result]:
    """What an entry says of itself, and the state of its file; the value is not looked at. Raises like `read`."""
    fd = _open(path)
    try:
        found = os.fstat(fd)
        _demand_file(found, path)
        return _note(fd, b"", found), found
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """A file, opened without following a link or waiting for a pipe."""
    try:
        return os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Damage("a symbolic link or a socket is in its place") from None
        raise


def _demand_file(found: os.stat_result, path: str) -> None:
    """Only a regular file is an entry."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory is in the place of an entry; move it away", path)
    if not stat.S_ISREG(found.st_mode):
        raise Damage("it is not a regular file", found.st_ino)


def _read(fd: int, path: str, afresh: bool) -> Entry:
    found = os.fstat(fd)
    mark = found.st_ino, found.st_mtime_ns, found.st_size
    checked, note = _known.get(path, _UNKNOWN)
    if checked == mark and note is not None and not afresh:
        payload = _payload(fd, b"", note.length)
        if len(payload) != note.length:
            raise Damage("it was cut while it was read", found.st_ino)
        return Entry(note, payload, mark, found)
    _demand_file(found, path)
    raw = _bytes(fd, found.st_size, 0) if found.st_size < MAPPED_FROM else b""
    note = _note(fd, raw, found)
    payload = _payload(fd, raw, note.length)
    if zlib.crc32(payload) != note.crc:
        raise Damage("its content does not match its checksum", found.st_ino)
    _remember(path, mark, note)
    return Entry(note, payload, mark, found)


def _note(fd: int, raw: bytes, found: os.stat_result) -> Note:
    """The line that describes the value, checked, from all bytes of the file or from the file itself."""
    size = found.st_size
    end = size - _TAIL_BYTES
    tail = raw[end:] if raw else _bytes(fd, _TAIL_BYTES, max(0, end))
    told = _TAIL_FORM.fullmatch(tail)
    if told is None:
        raise Damage("it does not end like an entry: it was cut, or is something else", found.st_ino)
    start = end - int(told[1])
    line = raw[start:end] if raw else _bytes(fd, end - start, start) if start >= 0 else b""
    if zlib.crc32(line) != int(told[2], 16):
        raise Damage("its description does not match its checksum", found.st_ino)
    try:
        note = Note(**_from_json(line.decode().strip()))
    except (ValueError, TypeError):
        raise Damage("its description cannot be read", found.st_ino) from None
    if note.length != start:
        raise Damage("its length is not that of its content", found.st_ino)
    return note


def _bytes(fd: int, length: int, at: int) -> bytes:
    """So many bytes of a file, or fewer if it ends before."""
    content = os.pread(fd, length, at)
    while len(content) < length:
        more = os.pread(fd, length - len(content), at + len(content))
        if not more:
            break
        content += more
    return content


def _payload(fd: int, raw: bytes, length: int) -> Buffer:
    """The value's bytes: of what was read, or mapped, or read where mapping is not possible."""
    if raw:
        return memoryview(raw)[:length]
    if length >= MAPPED_FROM and len(_maps) < MAPS:
        try:
            return _Mapping(fd, length, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError):
            pass  # no descriptors or no address space left
    return _bytes(fd, length, 0)
