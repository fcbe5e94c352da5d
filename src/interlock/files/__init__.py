"""Files that many processes replace: always whole, never two writers at once, never by a writer who was superseded.

A file is replaced by renaming a finished temporary file over it, so whoever opens it finds the old content or the new
one and needs no lock. The rename keeps the file's mode and its symbolic links, and its owner where the user may give
files away; access control lists, extended attributes and hard links are not kept. A process killed outright leaves
its temporary file, ``.NAME.PID.RANDOM.tmp``, behind.

Locks and tokens live beside the files they guard, in ``.interlock`` of the same directory, so that every process on
every host that sees the file finds the same ones, whatever path it knows the file by. Only writers need them.

Layer: above `session`.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from interlock.errors import RecordInvalid, Superseded
from interlock.objects import Lock
from interlock.objects.named import check_timeout
from interlock.session import Session, connect

StrPath = str | os.PathLike[str]

_MODES = ("w", "wb", "x", "xb")
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LONGEST_STEM = 100  # bytes of a name that its temporary file repeats: it must fit where the name itself just fits
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OPEN_SPACES = 32  # directories whose locks a process keeps at hand
_STALE_READS = 5  # how often a read starts again because the server has dropped the file it had opened


def atomic_write(
    path: StrPath, mode: str = "w", sync: bool = True, *, encoding: str | None = None, newline: str | None = None
) -> AbstractContextManager[IO[Any]]:
    """Write a file that appears at once and whole when the block ends, or not at all.

    A symbolic link is followed: what it points to is replaced. Two writers do not exclude each other; the last one to
    end wins, and the file is always one or the other.

    Args:    mode: ``w`` or ``wb``; ``x`` or ``xb`` refuse to replace what exists when the block ends.
             sync: make the content and the rename survive a power failure.
             encoding: of text, UTF-8 unless given. newline: as for `open`.
    Raises:  whatever the block raises, `KeyboardInterrupt` included, and OSError for a full disk, a directory, a pipe:
             the file is as it was and no temporary file is left. Only an OSError from the last step, the sync of the
             directory, comes after the file was replaced.
    Crash:   the old file or the new one; a kill leaves the temporary file.
    Cost:    a file created and renamed; two syncs of the disk with `sync`.
    """
    if mode not in _MODES:
        raise ValueError(f"mode is one of {', '.join(_MODES)}, not {mode!r}")
    if "b" not in mode:
        encoding = encoding or "utf-8"
    return _opened(os.fsdecode(path), mode, sync, encoding, newline)


@contextmanager
def _opened(path: str, mode: str, sync: bool, encoding: str | None, newline: str | None) -> Iterator[IO[Any]]:
    exclusive = mode[0] == "x"
    with (
        _draft(_target(path, follow=not exclusive), sync, exclusive) as fd,
        # Of its own: so the block may close its file, and one that an interrupt left unflushed meets no other's file.
        open(os.dup(fd), mode.replace("x", "w"), encoding=encoding, newline=newline) as file,
    ):
        yield file


@contextmanager
def _draft(target: str, sync: bool, exclusive: bool = False) -> Iterator[int]:
    """The descriptor of a temporary file that takes the place of `target` when the block ends."""
    old = _regular(target)
    if exclusive and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    temporary = _temporary(target)
    try:
        # A new file gets its mode from the kernel, which knows the umask; a replacement is private until it is whole.
        fd = os.open(temporary, _FRESH, 0o666 if old is None else 0o600)
        try:
            yield fd
            if old is not None:
                _inherit(fd, old)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        _publish(temporary, target, exclusive)
        if sync:
            _sync_directory(target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            _name(error, temporary, target)
        raise


def _target(path: str, *, follow: bool = True) -> str:
    """The absolute path of the file that is meant, behind all symbolic links; the last part's own only to `follow`."""
    directory, name = os.path.split(path)
    if not name or name in (os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return os.path.realpath(path) if follow else os.path.join(os.path.realpath(directory), name)


def _regular(target: str) -> os.stat_result | None:
    """The state of the file, or None if there is none; only a regular file can be replaced by another."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced", target)
    return found


def _temporary(target: str) -> str:
    directory, name = os.path.split(target)
    stem = os.fsencode(name)[:_LONGEST_STEM].decode("utf-8", "ignore")
    return os.path.join(directory, f".{stem}.{os.getpid()}.{os.urandom(8).hex()}.tmp")


def _inherit(fd: int, old: os.stat_result) -> None:
    """Give a new file the owner and the mode of the old one, as far as this user may."""
    mode, new = stat.S_IMODE(old.st_mode), os.fstat(fd)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(fd, old.st_uid, old.st_gid)
        except OSError:
            mode &= 0o777  # a program must not become set-user-id of whoever wrote it
            with suppress(OSError):
                os.fchown(fd, -1, old.st_gid)
    if mode != stat.S_IMODE(new.st_mode):
        os.fchmod(fd, mode)


def _publish(temporary: str, target: str, exclusive: bool) -> None:
    if exclusive:
        os.link(temporary, target)
        os.unlink(temporary)
    else:
        os.replace(temporary, target)


def _sync_directory(target: str) -> None:
    """Make a rename durable; where a directory may not be opened or cannot be synced, it is as durable as it gets."""
    try:
        fd = os.open(os.path.dirname(target), os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(fd)


def _name(error: OSError, temporary: str, target: str) -> None:
    """Let an error speak of the file people know: not of its temporary file, and not, as a full disk does, of none."""
    if error.filename == temporary or (error.filename is None and error.errno in _DISK):
        error.filename = target


def _write(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


class JsonFile:
    """A JSON document that many processes read, and change one at a time, in order of arrival.

    Reads take no lock, need no permission to write and never see half a document. Objects for one file exclude each
    other in all processes and on all hosts, whatever path they were made with. Pickles.

    Args: timeout: seconds to wait for other writers; None waits for ever, 0 tries once.
          sync: make every write survive a power failure, at the cost of two syncs.
          indent: spaces of each level, for files that people read; None writes one line, which is fastest.
          scope: URL of the locks, where they cannot be in ``.interlock`` beside the file: on a mount whose locks mean
          nothing between hosts, or for users who do not share the right to write there. All must give the same one,
          and see the file under the same path.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        timeout: float | None = 60.0,
        sync: bool = True,
        indent: int | None = None,
        scope: str | None = None,
    ) -> None:
        self.path = str(Path(os.fsdecode(path)).absolute())
        self.timeout = check_timeout(timeout)
        self.sync = sync
        self.indent = indent
        self.scope = scope

    def __repr__(self) -> str:
        return f"JsonFile({self.path!r})"

    def read(self, default: Any = ...) -> Any:
        """The document as it is now.

        Args:   default: returned if there is no file; a dict, list or set is copied, so that it stays as it is.
        Raises: FileNotFoundError: no file and no default. json.JSONDecodeError: damaged; the message names the path.
        Cost:   one file read.
        """
        return _load(self.path, default)

    def write(self, data: Any) -> None:
        """Replace the document, whatever it was; never between another writer's read and write.

        Raises: AcquireTimeout: not written; names who is writing (definite). TypeError: not JSON, nothing written.
        """
        target, content = _target(self.path), self._encode(data)
        with _guard(target, self.timeout, self.scope):
            self._replace(target, content)

    def update(self, fn: Callable[[Any], Any], default: Any = ...) -> Any:
        """Read, change and write the document with nobody else's write in between.

        Args:    fn: gets the document, returns the new one, and may change and return what it got. It runs under the
                 lock, once.
                 default: what `fn` gets if there is no file, copied as for `read`.
        Returns: what `fn` returned, which is what was written.
        Raises:  AcquireTimeout: not obtained; names who is writing (definite). Deadlock: `fn` updates the same file.
                 TypeError: `fn` returned None, having perhaps forgotten its ``return``, or what is not JSON.
                 FileNotFoundError, json.JSONDecodeError: as for `read`. And whatever `fn` raises. In every case nothing
                 was written.
        Crash:   a writer that dies has written all or nothing, and the next in the row goes on within a second.
        Cost:    a lock, a read and a write of the file.
        """
        target = _target(self.path)
        with _guard(target, self.timeout, self.scope):
            data = fn(_load(target, default))
            if data is None:
                raise TypeError(f"the function that updates {self.path} returned None; it must return the document")
            self._replace(target, self._encode(data))
        return data

    def _encode(self, data: Any) -> bytes:
        return json.dumps(data, indent=self.indent).encode() + b"\n"

    def _replace(self, target: str, content: bytes) -> None:
        with _draft(target, self.sync) as fd:
            _write(fd, content)


def _load(path: str, default: Any) -> Any:
    try:
        content = _content(path)
    except FileNotFoundError:
        if default is ...:
            raise
        return copy.deepcopy(default) if isinstance(default, dict | list | set) else default
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"{path} is not JSON: {error.msg}", error.doc, error.pos) from None
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(f"{path} is not JSON: {error}", "", 0) from None


def _content(path: str) -> bytes:
    """The whole file. A server that knows nothing of this reader may drop a replaced file before it was read."""
    for _ in range(_STALE_READS):
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            stale = error
    raise stale


def fenced_replace(
    source: StrPath, path: StrPath, *, token: int, sync: bool = True, timeout: float | None = 60.0
) -> None:
    """Rename `source` over `path`, unless the holder of a larger token has done so before.

    A holder that was thought dead, and superseded, cannot overwrite what its successor wrote, however late it wakes
    up. The comparison and the rename are one step; every writer of `path` must use this function. The same token may
    replace again. Idea: Kleppmann, How to do distributed locking, 2016.

    Args:   source: a finished file on the same file system; it keeps its own mode and owner.
            token: of the grant under which `source` was written, as `Grant.token`.
            sync: make content, token and rename survive a power failure.
            timeout: seconds to wait for others who replace the same file.
    Raises: Superseded: a larger token came first; both files are as they were (definite). OSError: nothing replaced.
    Crash:  all or nothing, save that older tokens may be refused already; the same token tries again.
    Cost:   a lock and a rename; for a new token also a small file written.
    """
    if not isinstance(token, int) or isinstance(token, bool) or token < 0:
        raise ValueError(f"token is a whole number, 0 or more, as in grant.token, not {token!r}")
    origin, target = os.fsdecode(source), _target(os.fsdecode(path))
    _regular(target)
    with _guard(target, timeout):
        record = _token_record(target)
        newest = _newest(record)
        if token < newest:
            raise Superseded(
                f"{target} was replaced under token {newest}; token {token} is older: its holder was superseded and "
                "must not write. Take the lock again and start from the present file",
                name=os.path.basename(target),
                path=target,
                token=token,
                newest=newest,
            )
        _settle(origin, sync)
        if token > newest:  # before the rename: a crash in between refuses too much, never too little
            with _draft(record, sync) as fd:
                _write(fd, b"%d\n" % token)
        os.replace(origin, target)
        if sync:
            _sync_directory(target)


def _settle(source: str, sync: bool) -> None:
    """Make sure that the source is a regular file itself, and on the disk if asked."""
    fd = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file, so it cannot replace one", source)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _token_record(target: str) -> str:
    """The file that remembers the largest token, named like the file itself, so that it fits wherever that does."""
    space, name = _space(target), os.path.basename(target)
    folder = os.path.join(space, "tokens")
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        os.chmod(folder, stat.S_IMODE(os.stat(space).st_mode))
    return os.path.join(folder, name)


def _newest(record: str) -> int:
    try:
        text = Path(record).read_bytes()
    except FileNotFoundError:
        return -1
    if not text.endswith(b"\n") or not text[:-1].isdigit():
        raise RecordInvalid(f"the token in {record} is damaged; nothing was replaced", path=record, damage=repr(text))
    return int(text)


# -- the lock of a file

_sessions: dict[str, Session] = {}


def _guard(target: str, timeout: float | None, scope: str | None = None) -> Lock:
    """The lock of a file: of its name beside it, or of its whole path in a scope that knows of no directory."""
    if scope is not None:
        return _session(scope).lock(target, timeout=timeout)
    return _session("file://" + quote(os.fsencode(_space(target)))).lock(os.path.basename(target), timeout=timeout)


def _space(target: str) -> str:
    """The directory of the locks and tokens of a file.

    In a sticky directory such as ``/tmp`` only its owner can replace a file, so each owner has a space there, and
    users who have nothing to do with each other do not meet.
    """
    directory = os.path.dirname(target)
    space = os.path.join(directory, ".interlock")
    if os.stat(directory).st_mode & stat.S_ISVTX:
        old = _regular(target)
        space += f"-{os.geteuid() if old is None else old.st_uid}"
    return space


def _session(url: str) -> Session:
    """The one session of this process in a space: with two, a thread could wait for itself and not know it."""
    session = _sessions.get(url) or _sessions.setdefault(url, connect(url))
    for old in list(_sessions)[:-_OPEN_SPACES]:
        if _sessions[old].idle and old != url:
            _sessions.pop(old, None)
    return session
