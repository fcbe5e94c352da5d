"""Session files: a session is alive for as long as the kernel lock of its own file is held.

A file is locked before it has its name, so nobody ever sees a living session unlocked. The kernel drops the lock when
the process ends, in whatever way, and keeps it while the process is stopped. "Dead" is that lock seen free, and nothing
else: a file that is missing or cannot be looked at is "unknown".

Layer: under `stores.file`.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator
from contextlib import suppress

from interlock.abc import Liveness
from interlock.errors import InterlockError
from interlock.holder import Holder
from interlock.stores._space import Space, reaching


class Sessions:
    """The sessions that this process has in a space, and a look at those of others."""

    def __init__(self) -> None:
        self._mine: dict[str, tuple[int, Holder]] = {}

    def begin(self, space: Space, session: str, holder: Holder, ttl_s: float = 0.0) -> None:
        """Make the session's file, locked from the start."""
        temporary = f".{session}"
        with reaching(os.path.join(space.path, "sessions")):
            fd = space.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, space.sessions)
            self._mine[session] = fd, holder  # before it is locked: a child forked meanwhile closes its copy
            try:
                if not space.lock.try_lock(fd):
                    raise OSError(errno.EWOULDBLOCK, "a fresh file is locked")
                content = holder.to_json().encode() + b"\n"
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.rename(temporary, session, src_dir_fd=space.sessions, dst_dir_fd=space.sessions)
            except BaseException:
                self._mine.pop(session)
                os.close(fd)
                os.unlink(temporary, dir_fd=space.sessions)
                raise

    def end(self, space: Space, session: str, forget: bool) -> None:
        """Let the session's lock go, and remove its file if it is to be forgotten."""
        fd, _ = self._mine.pop(session, (-1, None))
        if fd >= 0:
            try:
                if forget:
                    self.forget(space, session)
            finally:
                os.close(fd)

    def forget(self, space: Space, session: str) -> None:
        """Remove the file of a session that has ended."""
        with reaching(os.path.join(space.path, "sessions", session)), suppress(FileNotFoundError):
            os.unlink(session, dir_fd=space.sessions)

    def move(self, space: Space) -> None:
        """Begin the same sessions in a new space, the old one having been removed from under them."""
        for session, (fd, holder) in list(self._mine.items()):
            try:
                self.begin(space, session, holder)
            finally:
                os.close(fd)  # a session that could not be moved is lost

    def close_all(self) -> None:
        """Close every descriptor: in a forked child they would keep the parent's sessions alive."""
        for fd, _ in self._mine.values():
            os.close(fd)
        self._mine.clear()

    def alive(self, space: Space, session: str) -> Liveness:
        """Whether a session lives, with proof. Takes nothing."""
        mine = self._mine.get(session)
        if mine is not None:
            return Liveness("alive", "it is a session of this process", mine[1])
        try:
            fd = space.open(session, os.O_RDONLY, space.sessions)
        except (OSError, InterlockError) as error:
            return Liveness("unknown", f"its session file cannot be looked at ({error})")
        try:
            holder = _holder(os.pread(fd, 65536, 0))
            if space.lock.held_by_other(fd):
                return Liveness("alive", "the kernel lock of its session file is held", holder)
            if os.fstat(fd).st_nlink == 0:
                return Liveness("unknown", "it was closed just now", holder)
            return Liveness("dead", "the kernel lock of its session file is free", holder)
        except OSError as error:
            return Liveness("unknown", f"its session file cannot be tested ({error})")
        finally:
            os.close(fd)


def names(space: Space) -> Iterator[str]:
    """The sessions that have a file."""
    with reaching(space.path):
        found = sorted(os.listdir(space.sessions))
    return (name for name in found if not name.startswith("."))


@functools.lru_cache(256)  # the same few are looked at again and again
def _holder(raw: bytes) -> Holder | None:
    try:
        return Holder.from_json(raw.decode())
    except ValueError:
        return None
