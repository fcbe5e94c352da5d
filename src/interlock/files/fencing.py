"""Replacing a file under a token, so that a writer who was superseded cannot. Layer: above `files.beside`."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from interlock.errors import RecordInvalid, Superseded
from interlock.files.atomic import StrPath, draft, regular, resolve, sync_directory, write_all
from interlock.files.beside import lock_of, space_of


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
    origin, target = os.fsdecode(source), resolve(os.fsdecode(path))
    regular(target)
    with lock_of(target, timeout):
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
            with draft(record, sync) as fd:
                write_all(fd, b"%d\n" % token)
        os.replace(origin, target)
        if sync:
            sync_directory(target)


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
    space, name = space_of(target), os.path.basename(target)
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
