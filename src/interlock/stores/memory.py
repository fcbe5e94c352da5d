"""memory://: records in this process, for threads and tests.

How the three laws hold here: `transact` is one mutex; a wake-up is a condition over it; a session lives until it is
closed, and dies in a forked child because the child starts with an empty store.
What breaks them: nothing short of the process, which takes everybody with it.

Layer: a store; it imports no machine and no object.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from interlock.abc import WAITING, Liveness, Machine, Outcome, Stored, Ticket
from interlock.errors import Mismatch, Unavailable

if TYPE_CHECKING:
    from interlock.holder import Holder

REPOLL_S = 0.5  # nobody dies unseen here, so this is only a safety net


class MemoryStore:
    """A store whose records are gone with the process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._clear()

    def _clear(self) -> None:
        self._mutex = threading.RLock()  # a forgotten session may end in the middle of anything
        self._records: dict[str, tuple[Machine, Any, int]] = {}
        self._sessions: dict[str, Holder] = {}
        self._ended: dict[str, Holder] = {}
        self._parked: dict[Ticket, threading.Event] = {}
        self._floor = 0
        self.attachments = os.path.join(_scratch(), os.urandom(8).hex())
        self._audit: list[str] = []

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        with self._mutex:
            kept, record, version = self._records.get(name) or (machine, machine.initial(self._floor), 0)
            if kept.kind != machine.kind:
                raise Mismatch.of_kind(name, kept.kind, machine.kind, self.url)
            after, outcome = machine.apply(record, op)
            if after is not record:
                self._records[name] = (machine, after, version + 1)
            if outcome.state == WAITING:
                self._parked.setdefault(op.ticket, threading.Event()).clear()
            elif self._parked:
                self._parked.pop(getattr(op, "ticket", None), None)  # type: ignore[arg-type]
            woken = [self._parked[ticket] for ticket in outcome.unpark if ticket in self._parked]
        for event in woken:
            event.set()
        return outcome

    def park(self, ticket: Ticket, timeout: float) -> None:
        event = self._parked.get(ticket)
        if event is not None and timeout > 0:
            event.wait(min(timeout, REPOLL_S))

    def open_session(self, holder: Holder, ttl_s: float) -> str:
        session = os.urandom(8).hex()
        with self._mutex:
            self._sessions[session] = holder
        return session

    def close_session(self, session: str, *, forget: bool = True) -> None:
        with self._mutex:
            holder = self._sessions.pop(session, None)
            if holder is not None and not forget:
                self._ended[session] = holder

    def alive(self, session: str) -> Liveness:
        holder = self._sessions.get(session)
        if holder is None:
            return Liveness("dead", f"session {session} was closed", self._ended.get(session))
        return Liveness("alive", f"session {session} is open in this process", holder)

    def sessions(self) -> Iterator[str]:
        with self._mutex:
            return iter([*self._sessions, *self._ended])

    def forget_session(self, session: str) -> None:
        self.close_session(session)
        self._ended.pop(session, None)

    def records(self, prefix: str = "") -> Iterator[Stored]:
        with self._mutex:
            names = sorted(name for name in self._records if name.startswith(prefix))
        for name in names:
            stored = self.read(name)
            if stored is not None:
                yield stored

    def read(self, name: str) -> Stored | None:
        with self._mutex:
            found = self._records.get(name)
        if found is None:
            return None
        machine, record, version = found
        return Stored(name, machine.kind, version, machine.encode(record))

    def retire(self, name: str, machine: Machine) -> bool:
        with self._mutex:
            kept, record, _ = self._records.get(name) or (machine, None, 0)
            if record is None or not kept.idle(record):
                return False
            self._floor = max(self._floor, kept.token(record))
            del self._records[name]
            return True

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        return None

    def audit(self, line: str) -> None:
        with self._mutex:
            self._audit.append(f"{time.time():.3f} {line}")


@functools.cache
def _scratch() -> str:
    """A directory that goes with the process; what is in it serves this process alone."""
    import atexit
    import shutil
    import tempfile

    path = os.path.join(tempfile.gettempdir(), f"interlock-memory-{os.getpid()}-{os.urandom(8).hex()}")
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None)
    return path


_stores: dict[str, MemoryStore] = {}
_registry = threading.Lock()


def open_store(url: str) -> MemoryStore:
    """The store of this URL; everybody in the process who names it shares it."""
    rest = url.removeprefix("memory://")
    if "?" in rest or "#" in rest:
        raise Unavailable(f"{url}: memory:// takes a name and nothing else", scope=url)
    with _registry:
        return _stores.setdefault(url, MemoryStore(url))


def _start_afresh_in_child() -> None:
    global _registry
    _registry = threading.Lock()
    for store in _stores.values():
        store._clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
