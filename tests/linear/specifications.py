"""What each object does when one process at a time uses it.

`die` is the death of a process: it happens at some time after the kill, when somebody finds out and evicts the dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from linear.checker import NOT_KNOWN, Operation


class Holding(NamedTuple):
    """Who holds under which token, exclusively or not; `recovered` is a death not yet told."""

    token: int = 0
    recovered: bool = False
    holds: frozenset[tuple[int, int, bool]] = frozenset()


class Admission:
    """Lock (`permits` 0), reader-writer lock (the same, with shared holds) and semaphore."""

    def __init__(self, permits: int = 0) -> None:
        self.permits = permits

    def initial(self) -> Holding:
        return Holding()

    def steps(self, state: Holding, operation: Operation) -> Iterable[Holding]:
        who, what, argument, result, *_ = operation
        if what == "die":
            lost = {hold for hold in state.holds if hold[0] == who}
            told = state.recovered or any(self.permits or not shared for _, _, shared in lost)
            return [Holding(state.token, told, state.holds - lost)]
        if what == "release":
            mine = {hold for hold in state.holds if hold[:2] == (who, argument)}
            return [state._replace(holds=state.holds - mine)] if mine else []
        shared = what == "read" or bool(self.permits)
        if result is None:
            return [] if self._fits(state, shared) else [state]
        return self._admit(state, who, shared, result) if self._fits(state, shared) else []

    def _fits(self, state: Holding, shared: bool) -> bool:
        if self.permits:
            return len(state.holds) < self.permits
        return not state.holds or (shared and all(other for _, _, other in state.holds))

    def _admit(self, state: Holding, who: int, shared: bool, result: Any) -> list[Holding]:
        token = state.token + 1
        if result not in (NOT_KNOWN, [token, state.recovered]):
            return []
        left = state.recovered and shared and not self.permits
        return [Holding(token, left, state.holds | {(who, token, shared)})]


class Flag:
    """An event. A wait that timed out saw the flag clear at some time."""

    def initial(self) -> bool:
        return False

    def steps(self, state: bool, operation: Operation) -> Iterable[bool]:
        if operation.what in ("set", "clear"):
            return [operation.what == "set"]
        if operation.what == "die" or operation.result in (NOT_KNOWN, state):
            return [state]
        return []


class OneResult:
    """A once: the first to run makes its own value everybody's, until it is forgotten."""

    def initial(self) -> str | None:
        return None

    def steps(self, state: str | None, operation: Operation) -> Iterable[str | None]:
        if operation.what == "die":
            return [state]
        if operation.what == "forget":
            return [None]
        value = operation.argument if state is None else state
        return [value] if operation.result in (NOT_KNOWN, value) else []


class Counter:
    """A number that operations add to; each returns the sum it made."""

    def initial(self) -> int:
        return 0

    def steps(self, state: int, operation: Operation) -> Iterable[int]:
        if operation.what == "die":
            return [state]
        after = state + (operation.argument or 0)
        return [after] if operation.result in (NOT_KNOWN, after) else []
