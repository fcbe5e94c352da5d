"""Fence: one party writes, the others wait, and all get the writer's value or its error.

Layer: an object.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from interlock import values
from interlock._script import Script, TimedOut, conclude, leave, settle
from interlock.abc import Outcome, Ticket
from interlock.errors import NotHeld, OwnerDied
from interlock.machines.fence import FENCE, Join
from interlock.machines.once import Fail, Publish
from interlock.objects.named import Named, check_timeout
from interlock.objects.once import fitting, result_of

if TYPE_CHECKING:
    from interlock.session import Session


_RESULTS = ("done", "failed", "died")


class _Leave(BaseException):
    """Carries everybody but the writer from `Fence.guard` to the end of the block; never leaves the fence."""


class Fence(Named):
    """One turn of a collective: every rank of the session's world enters it, one of them runs the block."""

    machine = FENCE

    def __init__(self, session: Session, name: str, *, writer: int | None = None, timeout: float | None = None) -> None:
        super().__init__(session, name)
        if writer is not None and not 0 <= writer < session.size:
            raise ValueError(f"writer is a rank from 0 to {session.size - 1}, not {writer!r}")
        self.writer = writer
        self.timeout = check_timeout(timeout)
        self._ticket: Ticket | None = None
        self._outcome: Outcome | None = None
        self._shared = "null"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._session, self.name, self.writer, self.timeout)

    def __enter__(self) -> Fence:
        self._run(self._begin())
        return self

    def guard(self) -> None:
        """Go on only as the writer; everybody else waits here for the writer's end and leaves the block.

        If the writer dies, and was not asked for by rank, one of those waiting becomes the writer and goes on.
        """
        self._run(self._guard())

    def share(self, value: Any) -> None:
        """Give the value to everybody, when the block ends. For the writer alone; the last call counts."""
        if self._outcome is None or self._outcome.state != "yours":
            raise NotHeld(f"only the writer of {self!r} shares, after guard()", name=self.name)
        self._shared = fitting(values.encode(value), self)

    def collect(self) -> Any:
        """The writer's value, on every rank, after the block."""
        if self._outcome is None or self._outcome.state == "yours":
            raise NotHeld(f"{self!r} has nothing to collect before its block has ended", name=self.name)
        return result_of(self._outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return bool(self._run(self._end(error)))

    # -- the scripts behind it

    def _begin(self) -> Script:
        self._outcome = None
        self._shared = "null"
        ticket = self._session.ticket()
        self._session.joins(self.name, self.machine)
        outcome = yield from conclude(self._join(ticket))
        if outcome.state in ("mismatch", "limit"):
            raise self._refused(outcome)
        self._ticket = ticket

    def _guard(self) -> Script:
        if self._ticket is None:
            raise NotHeld(f"{self!r} is guarded inside its block only", name=self.name)
        outcome = yield from self._turn(self._ticket)
        if outcome.state != "yours":
            raise _Leave

    def _end(self, error: BaseException | None) -> Script:
        """Finish the turn; returns whether the block's error was only the way out of `guard`."""
        ticket = self._ticket
        if ticket is None:
            return False
        outcome = yield from self._turn(ticket)
        if outcome.state == "yours":
            outcome = self._outcome = yield from self._finish(ticket, error)
        yield from leave(ticket)
        if error is not None and not isinstance(error, _Leave):
            return False
        if outcome.state == "died":
            raise OwnerDied(f"rank {self.writer} died while it wrote for {self!r}", name=self.name)
        if outcome.state == "failed":
            raise values.decode_error(outcome.value)
        return True

    def _finish(self, ticket: Ticket, error: BaseException | None) -> Script:
        """Publish the writer's value or error; a party that was handed the turn too late to write fails it."""
        op: Publish | Fail = Publish(ticket, self._shared)
        if error is not None:
            late = isinstance(error, _Leave)
            fault = OwnerDied(f"the writer of {self!r} died", name=self.name) if late else error
            op = Fail(ticket, values.encode_error(fault))
        outcome = yield from conclude(op)
        if outcome.state not in ("done", "failed", "died"):
            raise self._refused(outcome)
        return outcome

    def _turn(self, ticket: Ticket) -> Script:
        """Wait for this party's part in the turn: to write, or to be told the result. A failed wait leaves the turn."""
        if self._outcome is None:
            self._ticket = None
            self._outcome = yield from self._settle(ticket)
            self._ticket = ticket
        return self._outcome

    def _join(self, ticket: Ticket) -> Join:
        session = self._session
        writer = "" if self.writer is None else str(self.writer)
        return Join(ticket, str(session.rank), session.size, writer)

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


def _rebuild(session: Session, name: str, writer: int | None, timeout: float | None) -> Fence:
    return Fence(session, name, writer=writer, timeout=timeout)
