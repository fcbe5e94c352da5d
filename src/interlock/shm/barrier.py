"""Barrier in shared memory: the parties of the last generation meet in one word.

The pure machine decides whatever is unusual, and its first generation; see ``csrc/barrier.h``.
Layer: an object.
"""

from __future__ import annotations

from interlock import _native, objects
from interlock._script import Script
from interlock.abc import Outcome
from interlock.objects import Arrival
from interlock.objects.named import check_timeout
from interlock.shm.lock import take_seat

GATHER_S = 0.25  # how long those who waited in shared memory are given to reach the machine before a late one gives up

_native.use_arrivals(Arrival)


class Barrier(_native.Barrier, objects.Barrier):
    """`interlock.Barrier` in shared memory."""

    def _meet(self, timeout: float | None, late: bool = False) -> Arrival:
        """Arrive in the machine: a first time, or because something is unusual."""
        limit = GATHER_S if late else check_timeout(timeout)
        arrival: Arrival = self._run(self._wait(limit))
        return arrival

    def _break_off(self, error: type[BaseException]) -> None:
        """A signal ended a wait in shared memory: the others are told."""
        self.abort(f"a party was interrupted ({error.__name__})")

    def _wait(self, timeout: float | None) -> Script:
        seat = self._seat = take_seat(self._session, self.name, self.machine, 1, False)
        arrived, parties = seat.region.waiting()
        if arrived and parties != self.parties:
            raise self._refused(Outcome("mismatch", parties))
        seat.enter()
        try:
            rounds = seat.region.move()
            arrival: Arrival = yield from super()._wait(timeout)
        finally:
            seat.leave()
        return Arrival(arrival.index, arrival.generation + rounds)

    @property
    def waiting(self) -> int:
        """How many parties wait now. Takes nothing."""
        region = self._session.store.region(self.name, self.machine, create=False)  # type: ignore[attr-defined]
        return (0 if region is None else int(region.waiting()[0])) or super().waiting
