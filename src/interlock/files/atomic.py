"""Replacing a file by a finished one, so that it is always whole. Layer: the bottom of `files`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any

StrPath = str | os.PathLike[str]

_MODES = ("w", "wb", "x", "xb")
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LONGEST_STEM = 100  # bytes of a name that its temporary file repeats: it must fit where the name itself just fits
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


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
        draft(resolve(path, follow=not exclusive), sync, exclusive) as fd,
        # Of its own: so the block may close its file, and one that an interrupt left unflushed meets no other's file.
        open(os.dup(fd), mode.replace("x", "w"), encoding=encoding, newline=newline) as file,
    ):
        yield file


@contextmanager
def draft(target: str, sync: bool, exclusive: bool = False) -> Iterator[int]:
    """The descriptor of a temporary file that takes the place of `target` when the block ends."""
    old = regular(target)
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
            sync_directory(target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            _name(error, temporary, target)
        raise


def resolve(path: str, *, follow: bool = True) -> str:
    """The absolute path of the file that is meant, behind all symbolic links; the last part's own only to `follow`."""
    directory, name = os.path.split(path)
    if not name or name in (os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return os.path.realpath(path) if follow else os.path.join(os.path.realpath(directory), name)


def regular(target: str) -> os.stat_result | None:
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


def sync_directory(target: str) -> None:
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


def write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
