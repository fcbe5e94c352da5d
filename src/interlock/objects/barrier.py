"""Barrier: all parties arrive before any leaves, and whoever is missing is named.

Layer: an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from interlock._script import Probe, Script, TimedOut, leave, settle, submit
from interlock.abc import Outcome, unseen
from interlock.errors import BrokenBarrier
from interlock.machines.barrier import BARRIER, Abort, Arrive, Broken, Reset, absent
from interlock.objects.named import Named, check_count, check_timeout

if TYPE_CHECKING:
    from interlock.holder import Holder
    from interlock.session import Session


class Arrival(NamedTuple):
    """One party's passage: `index` is its place among the parties (0 first), `generation` counts the passages."""

    index: int  # type: ignore[assignment]
    generation: int


class Barrier(Named):
    """A reusable barrier for a fixed number of parties; threads of one session are separate parties."""

    machine = BARRIER

    def __init__(self, session: Session, name: str, parties: int | None = None) -> None:
        super().__init__(session, name)
        self.parties = check_count("parties", session.size if parties is None else parties)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._session, self.name, self.parties)

    def wait(self, timeout: float | None = None) -> Arrival:
        """Arrive, and wait until every party has.

        Args:    timeout: seconds; None waits for ever. A time-out breaks the barrier for everybody.
        Returns: this party's index and the generation it passed with.
        Raises:  BrokenBarrier: a party timed out, died, left or aborted; `missing` names who is not there (definite).
        Crash:   a party that dies while waiting never counts as arrived; the others are told within a second on one
                 host. One that dies before it arrives is missed by name if it took part in the last generation.
        Cost:    three transactions, and a look at the other parties by the last one.
        """
        arrival: Arrival = self._run(self._wait(check_timeout(timeout)))
        return arrival

    def abort(self, reason: str = "") -> None:
        """Break the barrier for everybody, until `reset` or until nobody is left of those who were there."""
        self._run(submit(Abort(reason, self._session.id)))

    def reset(self) -> None:
        """Start afresh; parties that wait get `BrokenBarrier`."""
        self._run(submit(Reset()))

    @property
    def broken(self) -> bool:
        """Whether it is broken. Takes nothing."""
        return self._record().broken is not None

    @property
    def waiting(self) -> int:
        """How many parties wait now. Takes nothing."""
        return len(self._record().arrivals)

    def _wait(self, timeout: float | None) -> Script:
        session = self._session
        ticket = session.ticket()
        if session.size > 1:
            session.joins(self.name, self.machine)
        label = str(session.rank) if 1 < session.size == self.parties else ""
        try:
            outcome = yield from settle(Arrive(ticket, self.parties, label, session.lasting), timeout)
            if outcome.state in ("passed", "broken"):
                yield from leave(ticket)
        except TimedOut as late:
            if late.left is None or late.left.state not in ("passed", "broken"):
                raise self._timed_out(late) from None
            outcome = late.left
        if outcome.state == "passed":
            return Arrival(*outcome.value)
        if outcome.state != "broken":
            raise self._refused(outcome)
        raise (yield from self._explain(outcome.value))

    def _situation(self, outcome: Outcome) -> tuple[str, tuple[Holder, ...]]:
        record = self._record()
        missing = [f"rank {label}" if label else f"session {who}" for who, label in absent(record)]
        text = f"{len(record.arrivals)} of {record.parties} parties have arrived"
        return text + (f"; missing: {', '.join(missing)}" if missing else ""), ()

    def _explain(self, broken: Broken) -> Script:
        missing: list[Holder | int] = []
        for session, label in broken.missing:
            holder = (yield Probe(session or unseen(label))).holder
            if holder is not None:
                missing.append(holder)
            elif label:
                missing.append(int(label))
        names = [f"rank {who}" if isinstance(who, int) else who.describe() for who in missing]
        return BrokenBarrier(
            f"{self!r} for {self.parties} parties is broken: {broken.reason}"
            + (f"; missing: {'; '.join(names)}" if names else ""),
            name=self.name,
            scope=self._session.url,
            missing=missing,
            reason=broken.reason,
        )
