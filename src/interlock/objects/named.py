"""What every object has: a session, a name, a machine, and a person's words for waiting.

Layer: above `_runners`; below every object.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import TYPE_CHECKING, Any, Self

from interlock._runners import Target, block
from interlock._script import Report, Script, TimedOut
from interlock.abc import Liveness, Machine, Outcome
from interlock.errors import AcquireTimeout, InterlockError, InvalidName, LimitExceeded, Mismatch, SessionLost
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

    def __new__(cls, session: Session, *args: Any, **options: Any) -> Self:
        """One of the class that the session's store has for its own objects of this kind, if it has one."""
        own: tuple[type[Self], ...] = getattr(session.store, "kinds", ())
        return super().__new__(next((kind for kind in own if issubclass(kind, cls)), cls))

    def __init__(self, session: Session, name: str) -> None:
        self.name = check_name(name)
        self._session = session
        words = weakref.WeakMethod(self._words)
        self._target = Target(session.store, self.name, self.machine, session.alive, words, session.check)

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
            raise Mismatch.of_kind(self.name, stored.kind, self.machine.kind, self._session.url)
        return self.machine.decode(stored.text)

    def _people(self, sessions: list[str]) -> list[Holder]:
        """The participants behind some sessions, as far as they can be known."""
        found = (self._session.alive(session).holder for session in dict.fromkeys(sessions))
        return [holder for holder in found if holder is not None]

    def _refused(self, outcome: Outcome) -> Exception:
        """The error for an outcome that no object expects in normal life."""
        where = {"name": self.name, "scope": self._session.url}
        if outcome.state == "mismatch":
            return Mismatch(f"{self!r} is in use with other parameters: {outcome.value}", **where)
        if outcome.state == "limit":
            return LimitExceeded(f"{self!r} is at its limit of {outcome.value}", **where)
        return SessionLost(f"{self!r}: what was held is gone: evicted, broken or removed by somebody else", **where)

    def _words(self, report: Report) -> str:
        situation, _ = self._situation(report.outcome)
        return f"waiting for {self!r} for {span(report.waited)}: {situation}"

    def _timed_out(self, late: TimedOut) -> AcquireTimeout:
        """The time-out in a person's words: who has it, since when, how many are ahead, and where to look."""
        situation = "its record was locked for the whole time by a stopped process or a hung file system"
        holders: tuple[Holder, ...] = ()
        if late.outcome is not None:
            situation, holders = self._situation(late.outcome)
        return AcquireTimeout(
            f"{self!r} not obtained in {span(late.waited)}: {situation}. "
            f"Look further with: interlock --url {self._session.url} show {self.name!r}",
            name=self.name,
            scope=self._session.url,
            holders=holders,
            position=late.outcome.position if late.outcome is not None else 0,
            waited=late.waited,
        )

    def _situation(self, outcome: Outcome) -> tuple[str, tuple[Holder, ...]]:
        """Who stands in the way, in words and as holders. Takes nothing."""
        try:
            holding = self._holding(self._record())
        except InterlockError as error:
            return f"its record cannot be read ({error})", ()
        told = {session: self._session.alive(session) for session in list(holding)[:_TOLD]}
        words = [_describe(session, life, holding[session]) for session, life in told.items()]
        if len(holding) > _TOLD:
            words.append(f"{len(holding) - _TOLD} more")
        text = f"held by {'; '.join(words)}" if words else "nobody is known to hold it"
        if outcome.position:
            text += f"; {outcome.position} ahead in the row"
        return text, tuple(life.holder for life in told.values() if life.holder is not None)

    def _holding(self, record: Any) -> dict[str, int]:
        """The sessions that hold, each with the wall-clock milliseconds since when, or 0."""
        return {who: 0 for who, part in self.machine.sessions(record).items() if part == "holds"}


_TOLD = 8  # so many holders are named one by one


def _describe(session: str, life: Liveness, since: int) -> str:
    text = life.holder.describe() if life.holder is not None else f"session {session}"
    if since:
        text += f", holding it for {span(time.time() - since / 1000)}"
    return text if life.state == "alive" else f"{text} ({life.state}: {life.proof})"
