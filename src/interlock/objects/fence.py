"""Fence: one party writes, the others wait, and all get the writer's value or its error.

Layer: an object.
"""

from __future__ import annotations

import functools
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import results, values
from interlock._script import Script, TimedOut, conclude, leave, settle, submit
from interlock.abc import Liveness, Outcome, Ticket, label_of, unseen
from interlock.errors import NotHeld, OwnerDied
from interlock.machines.fence import FENCE, Beat, Join
from interlock.machines.once import Fail, Publish
from interlock.objects.named import Named, check_timeout

if TYPE_CHECKING:
    from interlock.session import Session


_RESULTS = ("done", "failed", "died")


class WayOut(BaseException):
    """Carries everybody but the writer from `Fence.guard` to the end of the block; never leaves the fence."""


class Group(NamedTuple):
    """Some of the ranks, who have ranks of their own among themselves."""

    name: str
    rank: int
    size: int


def _member(session: Session, group: str, who: str) -> Liveness:
    """Whether somebody lives; a label is that of a member of the group."""
    label = label_of(who)
    return session.alive(who if label is None else unseen(f"{group}/{label}"))


class Fence(Named):
    """One turn of a collective: every rank of the session's world enters it, one of them runs the block.

    Args: writer: the rank that writes; None takes whoever comes first.
          timeout: seconds to wait for the writer, from its last `heartbeat`; None waits for as long as it lives.
          takeover: let the next rank write if the writer dies or is interrupted; otherwise all get `OwnerDied`. A
          writer that was asked for by rank is never followed.
    """

    machine = FENCE

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        writer: int | None = None,
        timeout: float | None = None,
        takeover: bool = True,
        group: Group | None = None,
    ) -> None:
        super().__init__(session, name)
        self._group = group
        self._rank, self._size = (group.rank, group.size) if group else (session.rank, session.size)
        if group:
            self._target = self._target._replace(alive=functools.partial(_member, session, group.name))
        if writer is not None and not 0 <= writer < self._size:
            raise ValueError(f"writer is a rank from 0 to {self._size - 1}, not {writer!r}")
        self.writer = writer
        self.timeout = check_timeout(timeout)
        self.takeover = takeover
        self._ticket: Ticket | None = None
        self._outcome: Outcome | None = None
        self._shared = "null"
        self._result: Any = None
        self._beats = 0

    def __reduce__(self) -> tuple[Any, ...]:
        options = {"writer": self.writer, "timeout": self.timeout, "takeover": self.takeover, "group": self._group}
        return _rebuild, (self._session, self.name, options)

    def __enter__(self) -> Fence:
        self._run(self._begin())
        return self

    def guard(self) -> None:
        """Go on only as the writer; everybody else waits here for the writer's end and leaves the block.

        If the writer dies, and was not asked for by rank, one of those waiting becomes the writer and goes on.
        """
        if not self.writes():
            raise WayOut

    def writes(self) -> bool:
        """Wait for this rank's part in the turn. True: it is to write, now. False: the writer has ended."""
        return bool(self._run(self._writes()))

    def heartbeat(self) -> None:
        """Tell those who wait with a timeout that the work goes on: their timeout runs anew. For the writer alone."""
        self._beats += 1
        if self._ticket is None or self._run(submit(Beat(self._ticket, self._beats))).state != "beating":
            raise NotHeld(f"only the writer of {self!r} gives signs of life, after guard()", name=self.name)

    def share(self, value: Any) -> None:
        """Give the value to everybody, when the block ends. For the writer alone; the last call counts."""
        if self._outcome is None or self._outcome.state != "yours":
            raise NotHeld(f"only the writer of {self!r} shares, after guard()", name=self.name)
        self._shared = results.pack(value, self._session.store, self.name, self._outcome.value[0])

    def collect(self) -> Any:
        """The writer's value, on every rank, after the block."""
        if self._outcome is None or self._outcome.state == "yours":
            raise NotHeld(f"{self!r} has nothing to collect before its block has ended", name=self.name)
        return self._result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            return bool(self._run(self._end(error)))
        except BaseException as fault:
            fault.__suppress_context__ |= isinstance(error, WayOut)
            raise

    # -- the scripts behind it

    def _begin(self) -> Script:
        self._outcome = None
        self._shared, self._result, self._beats = "null", None, 0
        ticket = self._session.ticket()
        if self._size > 1:
            self._session.joins(self.name, self.machine)
        outcome = yield from conclude(self._join(ticket))
        if outcome.state in ("mismatch", "limit"):
            raise self._refused(outcome)
        self._ticket = ticket

    def _writes(self) -> Script:
        if self._ticket is None:
            raise NotHeld(f"{self!r} is guarded inside its block only", name=self.name)
        outcome = yield from self._turn(self._ticket)
        if outcome.state == "yours" and outcome.value[1] and not self.takeover:
            raise self._orphaned(outcome.value[1])
        return outcome.state == "yours"

    def _orphaned(self, session: str) -> OwnerDied:
        who = "; ".join(holder.describe() for holder in self._people([session])) or f"session {session}"
        return OwnerDied(f"the writer of {self!r} died: {who}", name=self.name, scope=self._session.url)

    def _end(self, error: BaseException | None) -> Script:
        """Finish the turn; returns whether the block's error was only the way out of `guard`."""
        ticket, way_out = self._ticket, error is None or isinstance(error, WayOut)
        if ticket is None:
            return False
        outcome = yield from self._turn(ticket)
        if outcome.state == "yours" and not (way_out or isinstance(error, Exception)) and self.takeover:
            yield from leave(ticket, f"was interrupted ({type(error).__name__})")
            return False
        if outcome.state == "yours":
            outcome = self._outcome = yield from self._finish(ticket, error)
        try:
            if way_out and outcome.state == "died":
                raise OwnerDied(f"rank {self.writer} is gone, which was to write for {self!r}", name=self.name)
            if way_out:
                self._result = results.result_of(outcome, self._session.store)
        finally:  # whoever has left the turn may find its files gone
            yield from leave(ticket)
        return way_out

    def _finish(self, ticket: Ticket, error: BaseException | None) -> Script:
        """Publish the writer's value or error; a party that was handed the turn too late to write fails it."""
        op: Publish | Fail = Publish(ticket, self._shared)
        if error is not None:
            late = isinstance(error, WayOut)
            fault = OwnerDied(f"the writer of {self!r} died", name=self.name) if late else error
            op = Fail(ticket, values.encode_error(fault, self._session.holder.describe()))
        turn = self._outcome.value[0] if self._outcome is not None else 0
        outcome = yield from conclude(op)
        if outcome.state not in _RESULTS:
            raise self._refused(outcome)
        results.supersede(self._session.store, self.name, turn)
        return outcome

    def _turn(self, ticket: Ticket) -> Script:
        """Wait for this party's part in the turn: to write, or to be told the result. A failed wait leaves the turn."""
        if self._outcome is None:
            self._ticket = None
            self._outcome = yield from self._settle(ticket)
            self._ticket = ticket
        return self._outcome

    def _join(self, ticket: Ticket) -> Join:
        writer = "" if self.writer is None else str(self.writer)
        return Join(ticket, str(self._rank), self._size, writer, self._session.lasting)

    def _settle(self, ticket: Ticket) -> Script:
        try:
            outcome = yield from settle(self._join(ticket), self.timeout, stands=True)
        except TimedOut as late:
            if late.left is None or late.left.state not in _RESULTS:
                raise self._timed_out(late) from None
            outcome = late.left
        if outcome.state != "yours" and outcome.state not in _RESULTS:
            raise self._refused(outcome)
        return outcome


def _rebuild(session: Session, name: str, options: dict[str, Any]) -> Fence:
    return Fence(session, name, **options)
