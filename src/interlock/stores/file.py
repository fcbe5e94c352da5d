"""file:///path: records in a directory, for the processes of one host and for hosts that share the directory.

How the three laws hold here, in each of its two modes, one of which a space is pinned to:

- `transact` under kernel locks (`stores._locked`) holds the lock of the record's own file from the read to the write,
  so no write can come late. With claims (`stores._claimed`), for mounts whose kernel locks mean nothing to other hosts,
  every version is claimed by a hard link, which succeeds only for the version that was read.
- Wake-ups on this host are futex words in a mapped file; other hosts poll, jittered and capped (`stores._waiting`). A
  lost wake-up costs one re-poll.
- A session is alive while the kernel lock on its own file is held, which ends with the process and not before
  (`stores._sessions`). With claims, while its heartbeat goes on (`stores._heartbeat`).
- After `fork` the child closes its copies of descriptors and owns nothing.

What breaks them: a mount that lies about its locks and was not measured (`stores._mount` refuses those known to);
somebody who removes the files of a live space (noticed within 10 ms of use, but not undone); a power failure, after
which records may be some seconds old; with claims, a process that is paused for longer than its lease and then acts
without its token being checked.

Layer: a store; it imports no machine and no object.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

from interlock.abc import Liveness, Machine, Outcome, Stored, Ticket
from interlock.errors import InterlockError, RecordInvalid, Unavailable
from interlock.holder import Holder
from interlock.stores import _kernel_lock, _sessions
from interlock.stores._claimed import ClaimedRecords
from interlock.stores._heartbeat import Heartbeats
from interlock.stores._locked import LockedRecords
from interlock.stores._mount import CLAIMS
from interlock.stores._record import invalid
from interlock.stores._sessions import Sessions
from interlock.stores._space import Space, file_name, reaching, unusable
from interlock.stores._waiting import Waiting


class FileStore:
    """One space as this process uses it; every session of the process shares it."""

    def __init__(self, url: str, path: str, primitive: str | None = None, *, local: bool = False) -> None:
        self.url = url
        self.attachments = os.path.join(path, "attachments")
        self.path = path
        self._wanted = primitive
        self._local = local
        self._space: Space | None = None
        self._guard = threading.Lock()

    def _after_fork(self) -> None:
        """Own nothing. Inherited descriptors would keep the parent's locks alive, and would not exclude it."""
        self._guard = threading.Lock()
        if self._space is not None:
            self._records.close()
            self._sessions.close_all()
            self._space.renew_mutex()
            self._enter(self._space)

    def __del__(self) -> None:
        """Close what nobody uses any more: a process may visit thousands of spaces."""
        try:
            if self._space is not None:
                self._sessions.close_all()
                self._space.close()
        except Exception:  # at the interpreter's end modules go before us, and the kernel closes everything
            pass

    # -- the space

    def _opened(self, *, create: bool = True) -> Space:
        if self._space is None:
            with self._guard:
                if self._space is None:
                    self._enter(Space(self.path, self._wanted, create=create, local=self._local))
        return self._space  # type: ignore[return-value]

    def _enter(self, space: Space, sessions: Sessions | Heartbeats | None = None) -> None:
        """Begin in a space that was just opened, with the sessions that were moved there."""
        self._sessions = sessions or (Heartbeats() if space.primitive is None else Sessions())
        self._waiting = Waiting(space)
        self._records: LockedRecords | ClaimedRecords
        if isinstance(self._sessions, Heartbeats):
            self._records = ClaimedRecords(space, self.url, self._waiting, self._sessions)
        else:
            self._records = LockedRecords(space, self.url, self._waiting)
        self._space = space

    def _existing(self) -> Space | None:
        """The space if there is one; looking at a scope that nobody has used finds nothing and makes nothing."""
        if self._space is None:
            try:
                os.stat(os.path.join(self.path, "settings.json"), follow_symlinks=False)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise unusable(self.path, error) from error
        return self._opened(create=False)

    def _current(self) -> Space:
        """The space, made anew if somebody removed it: sessions go on in the new one, what they held is lost."""
        space = self._opened()
        if space.removed():
            with self._guard:
                if self._space is space:
                    fresh = Space(self.path, space.primitive.name if space.primitive else CLAIMS, create=True)
                    self._sessions.move(fresh)
                    self._enter(fresh, self._sessions)
        return self._opened()

    # -- transact

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        if self._space is None:
            self._opened()
        while (outcome := self._records.transact(name, machine, op, deadline)) is None:
            self._current()
        for ticket in outcome.unpark:
            self._waiting.unpark(ticket)
        return outcome

    def park(self, ticket: Ticket, timeout: float) -> None:
        self._waiting.park(ticket, timeout)

    # -- sessions

    def open_session(self, holder: Holder, ttl_s: float) -> str:
        session = os.urandom(8).hex()
        space = self._current()
        self._sessions.begin(space, session, holder, ttl_s)
        return session

    def close_session(self, session: str, *, forget: bool = True) -> None:
        space = self._opened()
        self._sessions.end(space, session, forget)

    def alive(self, session: str) -> Liveness:
        try:
            space = self._opened(create=False)
        except InterlockError as error:
            return Liveness("unknown", f"the space cannot be looked at ({error})")
        return self._sessions.alive(space, session)

    def sessions(self) -> Iterator[str]:
        space = self._existing()
        return iter(()) if space is None else _sessions.names(space)

    def forget_session(self, session: str) -> None:
        space = self._opened()
        self._sessions.forget(space, session)

    # -- looking and tidying

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        return iter(()) if self._existing() is None else self._records.all(prefix)

    def read(self, name: str) -> Stored | None:
        if self._existing() is None:
            return None
        found = self._records.look(file_name(name))
        if isinstance(found, RecordInvalid):
            raise invalid(found.path, found.damage, name=name, scope=self.url)
        return found

    def retire(self, name: str, machine: Machine) -> bool:
        self._opened()
        return self._records.retire(name, machine)

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        self._opened()
        return self._records.discard(name, unreadable)

    def audit(self, line: str) -> None:
        space = self._opened()
        with reaching(os.path.join(self.path, "audit.log")):
            fd = space.open("audit.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, space.root)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)


_stores: weakref.WeakValueDictionary[str, FileStore] = weakref.WeakValueDictionary()
_registry = threading.Lock()


def open_store(url: str) -> FileStore:
    """The store of a ``file://`` URL; a process has one store for a directory, however the directory is spelled.

    ``?primitive=flock`` (or ofd, lockf, claims) chooses the way of locking of a new space; an existing one keeps its
    own. ``?local=ok`` says that this host alone uses it, so that kernel locks will do on any file system.
    """
    parts = urlsplit(url)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    primitive, local = options.pop("primitive", None), options.pop("local", "")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path or options or parts.fragment:
        raise Unavailable(f"{url!r} is not file:///absolute/path or file:///absolute/path?primitive=ofd", scope=url)
    if primitive not in (None, CLAIMS, *_kernel_lock.PRIMITIVES) or local not in ("", "ok"):
        known = ", ".join((*_kernel_lock.PRIMITIVES, CLAIMS))
        raise Unavailable(f"{url!r}: primitive is one of {known}, and local is ok or nothing", scope=url)
    real = os.path.realpath(path)
    with _registry:
        store = _stores.get(real)
        if store is None:
            store = _stores[real] = FileStore(
                f"file://{quote(os.fsencode(real))}", real, primitive, local=local == "ok"
            )
    return store


def _close_inherited() -> None:
    global _registry
    _registry = threading.Lock()
    for store in list(_stores.values()):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
