"""One record in one small file: readable with ``cat``, and sound whenever its writer is killed.

Layout: a header line of 64 bytes, then room for record lines::

    interlock 1 v=000000000042 at=0000064 len=0000187 crc=9f3a01bc
    {"kind":"lock","name":"index","record":{...}}

The header says which bytes are the current line. A write puts the new line where the current one is not, and only then
replaces the header, which lies within one page and is copied in one piece. A writer killed before that leaves the
old record; one killed after it leaves the new one; there is no third case. So a line that does not fit its checksum is
never a half-finished write but damage, and is refused: `RecordInvalid`, nothing overwritten.

Room for the lines that follow is allocated together with each line, and a release may use it up: a disk that fills up
fails an acquire, never a release.
Not guaranteed: nothing is synced, so a power failure may bring back an older record; its holders are gone by then.

Layer: under `stores.file`, which holds the kernel lock around `read` and `write`.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import zlib

from interlock.errors import OutcomeUnknown, RecordInvalid, Unavailable

HEADER = 64
PAGE = 4096
SCHEMA = 1
LIMIT_BYTES = 4 * 1024 * 1024
_OPEN = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_TORN_READS = 50  # a reader without the lock may see a header and a line of different versions, but not this often


class Damage(Exception):
    """What is wrong with the bytes; turned into `RecordInvalid` by whoever knows the path."""


def open_regular(name: str, flags: int, directory: int, mode: int = 0o600) -> int:
    """Open a regular file of a directory, never through a symbolic link and never blocking on a pipe."""
    fd = os.open(name, flags | _OPEN | _BINARY, mode, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damage("it is not a regular file")
    return fd


def header(version: int, at: int, line: bytes) -> bytes:
    """The header that makes `line`, at offset `at`, the current one."""
    crc = zlib.crc32(line, version & 0xFFFFFFFF)
    return b"interlock %d v=%012d at=%07d len=%07d crc=%08x \n" % (SCHEMA, version, at, len(line), crc)


def locate(raw: bytes) -> tuple[int, int, int, int]:
    """Version, offset, length and checksum from a header; raises `Damage` for anything else."""
    if not raw:
        raise Damage("it is empty")
    words = raw[:HEADER].split(b" ")
    if words[0] != b"interlock" or len(words) < 2:
        raise Damage("it is not a record of interlock")
    if words[1] != b"%d" % SCHEMA:
        raise Damage(f"it has schema {words[1][:20]!r}; this version reads schema {SCHEMA}: use a newer interlock")
    try:
        _, _, v, at, length, crc, end = words
        found = int(v[2:]), int(at[3:]), int(length[4:]), int(crc[4:], 16)
    except ValueError:
        raise Damage("its header is damaged") from None
    if end != b"\n" or found[0] < 0 or found[1] < HEADER or not 0 < found[2] <= LIMIT_BYTES:
        raise Damage("its header is damaged")
    return found


def read_line(fd: int | None, raw: bytes) -> tuple[int, int, bytes]:
    """Version, offset and checked bytes of the current line; `raw` is the first page, read before, or without a
    descriptor the whole file."""
    version, at, length, crc = locate(raw)
    line = raw[at : at + length] if fd is None or at + length <= len(raw) else os.pread(fd, length, at)
    if len(line) != length or zlib.crc32(line, version & 0xFFFFFFFF) != crc:
        raise Damage(f"version {version} does not match its checksum")
    return version, at, line


def read_unlocked(fd: int) -> tuple[int, bytes]:
    """Version and line as seen by a reader that takes no lock: read again while a writer is at work."""
    for attempt in range(_TORN_READS):
        try:
            version, _, line = read_line(fd, os.pread(fd, PAGE, 0))
        except Damage:
            if attempt == _TORN_READS - 1:
                raise
            time.sleep(0.0002 * attempt)
        else:
            return version, line
    raise AssertionError("unreachable")


def blank(line: bytes) -> bytes:
    """The content of a new record file."""
    return (header(1, HEADER, line) + line).ljust(PAGE, b"\0")


class RecordFile:
    """An open record file of this process, with the last record it decoded.

    `mutex` keeps the threads of the process apart; the kernel lock keeps processes apart. Both are held around `read`
    and `write`. `fd` is -1 once the file is closed.
    """

    __slots__ = (
        "_at", "_header", "_length", "_room", "checked", "fd", "kind", "mutex", "path", "prefix", "record", "version",
    )  # fmt: skip

    def __init__(
        self, fd: int, path: str, kind: str = "", prefix: bytes = b"", mutex: threading.Lock | None = None
    ) -> None:
        self.fd = fd
        self.path = path
        self.kind = kind
        self.prefix = prefix
        self.mutex = mutex or threading.Lock()
        self.record: object = None
        self.version = 0
        self.checked = 0.0
        self._header = b""
        self._at = self._length = self._room = 0

    def read(self) -> bytes | None:
        """The current line, or None if it is the one that `record` was decoded from."""
        raw = os.pread(self.fd, PAGE, 0)
        if raw[:HEADER] == self._header:
            return None
        self.version, self._at, line = read_line(self.fd, raw)
        self._length, self._header = len(line), raw[:HEADER]
        return line

    def write(self, line: bytes, *, spend: bool = False) -> None:
        """Make `line` the current one. A failure before the header is replaced changes nothing.

        Every write leaves room for later ones; `spend` lets this one use that room up if the disk gives no more.
        """
        length = len(line)
        at = HEADER if HEADER + length <= self._at else self._at + self._length
        if at + 4 * length + HEADER > self._room:
            self._make_room(at + length, at + 4 * length + HEADER, spend)
        version = self.version + 1
        head = header(version, at, line)
        if os.pwrite(self.fd, line, at) != length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it took a part, and nothing changed
        try:
            os.pwrite(self.fd, head, 0)
        except OSError as error:
            raise OutcomeUnknown(f"the header of {self.path} may or may not be written: {error}") from error
        self.version, self._at, self._length, self._header = version, at, length, head

    def _make_room(self, needed: int, wanted: int, spend: bool) -> None:
        if wanted > LIMIT_BYTES:
            raise Unavailable(f"the record at {self.path} would be larger than {LIMIT_BYTES} bytes")
        have = os.fstat(self.fd).st_size
        if have < wanted:
            wanted = -(-wanted // PAGE) * PAGE
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.fd, 0, wanted)
                else:
                    os.pwrite(self.fd, b"\0" * (wanted - have), have)
            except OSError:
                if not spend or have < needed:
                    raise
                wanted = have
        self._room = max(wanted, have)

    def forget(self) -> None:
        """Decode afresh next time."""
        self._header = b""
        self.record = None

    def close(self) -> None:
        """Close the descriptor; whoever waits for the mutex finds `fd` negative and opens the file anew."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def invalid(path: str, damage: object, *, name: str | None = None, scope: str | None = None) -> RecordInvalid:
    """The error for a record that cannot be trusted."""
    remedy = f"`interlock break {name!r} --reason ...` sets it aside" if name else "move it away when no job uses it"
    where = f"record {path}" + (f" of {name!r}" if name else "")
    return RecordInvalid(
        f"{where} cannot be used: {damage}. Nothing was overwritten; {remedy}.",
        name=name,
        scope=scope,
        path=path,
        damage=str(damage),
    )
