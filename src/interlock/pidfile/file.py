"""A pid file held by this process. Layer: above `pidfile.verdict`."""

from __future__ import annotations

import atexit
import logging
import os
import time
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from interlock.abc import Liveness
from interlock.errors import AcquireTimeout, NotHeld
from interlock.files.atomic import StrPath, resolve, write_all
from interlock.files.beside import lock_of, space_of
from interlock.holder import span
from interlock.objects import Grant
from interlock.objects.named import check_timeout
from interlock.pidfile.content import Seen, read
from interlock.pidfile.guard import sign, signed
from interlock.pidfile.verdict import judge, look

log = logging.getLogger("interlock")

POLL_S = 1.0  # how often a file is looked at of whose end nobody tells us
MOMENT_S = 1.0  # how long a guard is waited for which is held for a look only, as it seems
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class _Hold(NamedTuple):
    """The file that was made, by which process, and the hold of its guard."""

    seen: Seen
    process: int
    grant: Grant


_standing: set[PidFile] = set()


class PidFile:
    """The lock file of shell scripts. It excludes them, and every other `PidFile` of that path.

    Args: path: of the file; its directory exists, and gets the folder ``.interlock`` for the guard.
          pid: what to write, if not this process's own.
    """

    def __init__(self, path: StrPath, *, pid: int | None = None) -> None:
        self.path = resolve(os.fsdecode(path), follow=False)
        self.pid = pid
        self._hold: _Hold | None = None

    def __repr__(self) -> str:
        return f"PidFile({self.path!r})"

    def acquire(self, timeout: float | None = 0) -> None:
        """Make the file. One whose maker is proved dead is removed first.

        Those who wait for a `PidFile` are served in order of arrival. A shell's file is looked at once a second,
        because a shell wakes nobody; whoever looks first after its end gets it.

        Args:   timeout: seconds; None waits for ever, 0 tries once.
        Raises: AcquireTimeout: the file is ACTIVE or UNKNOWN; names it, its holder and the proof (definite).
                Deadlock: this thread holds it already. OSError: a full disk, no permission, no such directory; then no
                file is left behind.
        Crash:  the file stays, and is STALE to all who look here; shells are kept out until one of us takes it over or
                clears it. A process that ends in order removes it.
        Cost:   a lock, two small files and a sync.
        """
        limit, started = check_timeout(timeout), time.monotonic()
        told: Liveness | None = None
        while True:
            grant = self._enter(None if limit is None else max(0.0, started + limit - time.monotonic()))
            try:
                inside = self._make(grant)
            finally:
                if not self.held:
                    grant.release()
            if inside is None:
                return
            waited = time.monotonic() - started
            if limit is not None and waited >= limit:
                raise self._refused(inside, waited)
            if inside != told:
                log.warning("waiting for %s: %s", self.path, _words(inside))
                told = inside
            time.sleep(POLL_S if limit is None else min(POLL_S, limit - waited))

    def release(self) -> None:
        """Remove the file, if it is still the one that was made, and give the guard back.

        Raises: NotHeld: this process does not hold it. SessionLost: the guard had been taken away (indefinite).
        """
        if self._hold is None or not self.held:
            raise NotHeld(f"{self!r} is not held by this process", name=self.path)
        grant = self._hold.grant
        try:
            self._withdraw()
        finally:
            self._hold = None
            _standing.discard(self)
            grant.release()

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._hold is not None and self._hold.process == os.getpid()

    def __enter__(self) -> PidFile:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _enter(self, left: float | None) -> Grant:
        """Take the guard. Who clears a file has it too, for a moment, which must not cost anybody his turn."""
        guard = lock_of(self.path, None)
        for patience in (left, MOMENT_S):
            try:
                return guard.acquire(patience)
            except AcquireTimeout as late:
                if not late.position:
                    raise  # nobody was seen to hold it: its record could not be reached
                refusal = late
                seen = read(self.path)
                if seen is not None and signed(self.path, seen):
                    break
        holder = refusal.holders[0] if refusal.holders else None
        raise self._refused(
            look(self.path) or Liveness("alive", "its guard is held", holder), refusal.waited
        ) from refusal

    def _make(self, grant: Grant) -> Liveness | None:
        """Make the file, whose guard is held; else say who is inside."""
        while True:
            made = _create(self.path, b"%d\n" % (os.getpid() if self.pid is None else self.pid))
            if made is not None:
                self._hold = _Hold(made, os.getpid(), grant)
                _standing.add(self)
                return None
            seen = read(self.path)
            if seen is None:
                continue  # its maker has removed it just now
            found = judge(self.path, seen)
            if found.state != "dead":
                return found
            log.warning("%s is taken over: %s", self.path, _words(found))
            remove(self.path, seen)

    def _withdraw(self) -> None:
        """Remove the file that this process made; never another's, and not from a forked child."""
        if self._hold is not None and self.held and not remove(self.path, self._hold.seen):
            log.warning("%s was removed or replaced by somebody else while it was held", self.path)

    def _refused(self, life: Liveness, waited: float) -> AcquireTimeout:
        advice = "; if nobody uses it any more, remove the file" if life.state == "unknown" else ""
        return AcquireTimeout(
            f"{self.path} not obtained in {span(waited)}: {_words(life)}. "
            f"Look further with: interlock ls --pidfiles {self.path}{advice}",
            name=self.path,
            scope=f"file://{space_of(self.path)}",
            holders=(life.holder,) if life.holder is not None else (),
            position=1,
            waited=waited,
        )


@atexit.register
def _withdraw_all() -> None:
    """A process that ends in order leaves no file behind that would keep out shells for ever."""
    for file in list(_standing):
        with suppress(OSError):
            file._withdraw()


def remove(path: str, seen: Seen) -> bool:
    """Remove the file if it is still this one. The caller holds its guard."""
    if read(path) != seen:
        return False
    with suppress(FileNotFoundError):
        os.unlink(path)
        return True
    return False


def _create(path: str, content: bytes) -> Seen | None:
    """Make the file under its guard; None if there is one."""
    try:
        fd = os.open(path, _MAKE, 0o666)
    except FileExistsError:
        return None
    try:
        try:
            write_all(fd, content)
            os.fsync(fd)  # only now some file systems tell that they are full, and others the file's final time
            found = os.fstat(fd)
        finally:
            os.close(fd)
        seen = Seen(found.st_ino, found.st_mtime_ns, content)
        sign(path, seen)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path
        raise
    return seen


def _words(life: Liveness) -> str:
    return f"{life.status}, {life.holder.describe()}: {life.proof}" if life.holder else f"{life.status}: {life.proof}"
