"""Lock, reader-writer lock and semaphore in shared memory.

The C type below each class takes what is free and waits a short while for what is not. What it leaves to be done comes
here, and goes the way of every other store: through `interlock._script`, under the ticket that stands already.

Layer: an object.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from interlock import _native, objects
from interlock._runners import block
from interlock._script import Script
from interlock.abc import Machine, Outcome, Ticket
from interlock.machines.admission import Acquire
from interlock.objects.named import check_timeout, wall_ms
from interlock.shm.seen import NAMES

if TYPE_CHECKING:
    from interlock.session import Session

SEATS = 256  # after so many more names, seats at objects that are not in use are left
WAITED_S = 0.05  # how long a ticket has waited in C when it comes here


class Grant(objects.Grant, _native.Grant):
    """A hold in shared memory."""

    __slots__ = ()

    @property
    def _ticket(self) -> Ticket:
        return Ticket(self._lock._session.id, self._serial)


class Lock(_native.Lock, objects.Lock):
    """`interlock.Lock` in shared memory; readers write no word that other readers write.

    While the lock changes hands quickly, a running process may take it past those who wait; whoever is first in the row
    for a millisecond is overtaken no more. So order of arrival is kept among those who wait, and nobody starves.
    """

    def _acquire_slowly(self, timeout: float | None) -> objects.Grant:
        """What the C type did not obtain, by the way of every store."""
        limit = check_timeout(timeout)
        self._seat = take_seat(self._session, self.name, self.machine, self._permits, self._shared)
        return objects.Lock.acquire(self, limit)

    def _may_wait(self) -> bool:
        """Whether the calling thread may wait at its session's seat: it has nothing here that it would wait for."""
        return self.machine.kind == "semaphore" or not self._holds()

    def _go_on(self, serial: int, timeout: float | None) -> objects.Grant:
        """Wait further with a ticket that stands in the row already."""
        limit = check_timeout(timeout)
        started = time.monotonic() - (WAITED_S if limit is None else min(WAITED_S, limit))
        request = Acquire(Ticket(self._session.id, serial), self._shared, self._permits, True, wall_ms())
        grant: objects.Grant = block(self._await(request, limit, started), self._target)
        return grant

    def _holds(self) -> list[objects.Grant]:
        seats = (self._session.seats.get((self.name, shared)) for shared in (False, True))
        seated = [seat.grant for seat in seats if seat is not None and seat.grant is not None]
        return [*seated, *super()._holds()]

    def _seat_of(self, grant: objects.Grant | None) -> Any:
        """The seat that a grant is held at; None if it stands in the row's records under a ticket of its own."""
        for shared in (False, True):
            seat = self._session.seats.get((self.name, shared))
            if seat is not None and grant is not None and seat.grant is grant:
                return seat
        return None

    def _release(self, grant: objects.Grant | None) -> None:
        found = grant or self._mine()
        seat = self._seat_of(found)
        if seat is None or found is None:
            super()._release(grant)
        elif found._depth > 1:
            found._depth -= 1
        elif not seat.release(False):
            raise self._refused(_GONE)

    def _give_back(self, grant: objects.Grant | None) -> Script:
        if self._seat_of(grant or self._mine()) is not None:
            self._release(grant)
        else:
            yield from super()._give_back(grant)

    def _weaken(self, grant: objects.Grant) -> Script:
        seat = self._seat_of(grant)
        yield from super()._weaken(grant)
        if seat is not None:
            self._session.keep(self.name, grant)
            seat.detach()


def take_seat(session: Session, name: str, machine: Machine, permits: int, shared: bool) -> Any:
    """The session's own place at an object, made at its first use and again when the object was made anew."""
    region = session.store.region(name, machine, permits or 1)  # type: ignore[attr-defined]
    seat = session.seats.get((name, shared))
    if seat is None:
        make_room(session)
        seat = session.seats.setdefault((name, shared), _native.Seat(region, Grant, int(session.id, 16), shared))
    if seat.region is not region:
        seat.move(region)
    return seat


def make_room(session: Session) -> None:
    """Now and then, leave the seats of locks that are free: a session may use any number of names."""
    if len(session.seats) % SEATS == SEATS - 1:
        for key, seat in list(session.seats.items()):
            if NAMES[seat.region.shape[0]] != "barrier" and seat.rise():
                session.seats.pop(key, None)


_GONE = Outcome("gone")


class Semaphore(Lock, objects.Semaphore):
    """`interlock.Semaphore` in shared memory."""
