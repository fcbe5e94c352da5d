"""What every object has: a session, a name, a machine, and a person's words for waiting.

Layer: above `_runners`; below every object.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock._runners import Target, block
from interlock._script import Report, Script, TimedOut, submit
from interlock.abc import Leave, Liveness, Machine, Outcome, Ticket
from interlock.errors import AcquireTimeout, InvalidName, LimitExceeded, Mismatch, SessionLost
from interlock.holder import span

if TYPE_CHECKING:
    from interlock.holder import Holder
    from interlock.session import Session

LONGEST_NAME = 1000


def wall_ms() -> int:
    """The wall clock in milliseconds, as records keep it."""
    return time.time_ns() // 1_000_000


def check_name(name: object) -> str:
    """The name, if it can be one: any text of 1 to 1000 characters without NUL."""
    if not isinstance(name, str):
        raise InvalidName(f"a name is text, not {type(name).__name__}")
    if not name or len(name) > LONGEST_NAME or "\0" in name:
        wrong = "empty" if not name else "with a NUL" if "\0" in name else f"{len(name)} characters long"
        raise InvalidName(f"a name has 1 to {LONGEST_NAME} characters and no NUL; this one is {wrong}: {name[:80]!r}")
    return name


def check_timeout(timeout: object) -> float | None:
    """The timeout in seconds, or None for one that never comes."""
    if timeout is None:
        return None
    if not isinstance(timeout, int | float) or math.isnan(timeout) or timeout < 0:
        raise ValueError(f"a timeout is None or a number of seconds, 0 or more, not {timeout!r}")
    return None if math.isinf(timeout) else float(timeout)


def check_count(what: str, count: object) -> int:
    """A number of permits or parties: a whole number, 1 or more."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{what} is a whole number, 1 or more, not {count!r}")
    return count


class Named:
    """Base of the objects; pickles by session and name."""

    machine: Machine

    def __init__(self, session: Session, name: str) -> None:
        self.name = check_name(name)
        self._session = session
        self._target = Target(session.store, self.name, self.machine, self._words)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} in {self._session.url}>"

    def _run(self, script: Script) -> Any:
        return block(script, self._target)

    def _record(self) -> Any:
        """The record as it stands, read without taking anything."""
        stored = self._session.store.read(self.name)
        if stored is None:
            return self.machine.initial(0)
        if stored.kind != self.machine.kind:
            raise Mismatch(
                f"{self.name!r} is a {stored.kind} in {self._session.url}, not a {self.machine.kind}",
                name=self.name,
                scope=self._session.url,
            )
        return self.machine.decode(stored.text)

    def _people(self, sessions: list[str]) -> list[Holder]:
        """The participants behind some sessions, as far as they can be known."""
        found = (self._session.store.alive(session).holder for session in dict.fromkeys(sessions))
        return [holder for holder in found if holder is not None]

    def _acknowledge(self, ticket: Ticket) -> Script:
        return submit(Leave(ticket))

    def _refused(self, outcome: Outcome) -> Exception:
        """The error for an outcome that no object expects in normal life."""
        where = {"name": self.name, "scope": self._session.url}
        if outcome.state == "mismatch":
            return Mismatch(f"{self!r} is in use with other parameters: {outcome.value}", **where)
        if outcome.state == "limit":
            return LimitExceeded(f"{self!r} is at its limit of {outcome.value}", **where)
        return SessionLost(f"{self!r}: what was held is gone: evicted, broken or removed by somebody else", **where)

    def _words(self, report: Report) -> str:
        waited = span(report.waited)
        return f"waiting for {self!r} for {waited}{_behind(report.outcome, report.behind)}"

    def _timed_out(self, late: TimedOut) -> AcquireTimeout:
        """The time-out in a person's words: who has it, since when, how many are ahead, and where to look."""
        outcome, holders = late.outcome, [life.holder for life in late.behind if life.holder is not None]
        reason = "its record was locked for the whole time by a stopped process or a hung file system"
        if outcome is not None:
            reason = _behind(outcome, late.behind).removeprefix(": ")
        return AcquireTimeout(
            f"{self!r} not obtained in {span(late.waited)}: {reason}. "
            f"Look further with: interlock --url {self._session.url} show {self.name!r}",
            name=self.name,
            scope=self._session.url,
            holders=tuple(holders),
            position=outcome.position if outcome is not None else 0,
            waited=late.waited,
        )


def _behind(outcome: Outcome, behind: tuple[Liveness, ...]) -> str:
    people = [life.holder.describe() if life.holder else f"somebody unknown ({life.proof})" for life in behind]
    unsure = [life.proof for life in behind if life.state == "unknown"]
    text = f": behind {'; '.join(people)}" if people else ""
    if outcome.position > 1:
        text += f"; {outcome.position} ahead in all"
    if unsure:
        text += f" (whether that one lives cannot be told: {unsure[0]})"
    return text or ": nobody is known to hold it"


Owner = Callable[[], int]
