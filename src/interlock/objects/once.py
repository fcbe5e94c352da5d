"""Once: the first comer computes, everybody gets the result or the same error.

Layer: an object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock import values
from interlock._script import Script, TimedOut, conclude, leave, settle, submit
from interlock.abc import Outcome, Ticket
from interlock.errors import LimitExceeded
from interlock.machines.once import LIMIT_BYTES, ONCE, Claim, Fail, Forget, Publish
from interlock.objects.named import Named, check_timeout

if TYPE_CHECKING:
    from interlock.session import Session


class Once(Named):
    """One computation under a name, done by whoever comes first; the result stays until it is forgotten."""

    machine = ONCE

    def __init__(self, session: Session, name: str, *, timeout: float | None = None, retry: bool = False) -> None:
        super().__init__(session, name)
        self.timeout = check_timeout(timeout)
        self.retry = retry

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._session, self.name, self.timeout, self.retry)

    def run(self, fn: Callable[[], Any]) -> Any:
        """The result of `fn`, computed by the first comer among all participants.

        Args:    fn: called at most once at a time among all; its value must travel as JSON (see `interlock.values`).
        Returns: the value as everybody reads it.
        Raises:  the error `fn` raised, on every participant, with the original traceback as a note; it stays the
                 result until `forget`, unless ``retry``. AcquireTimeout: somebody else still computes (definite).
        Crash:   if the participant that computes dies or is interrupted, the next one computes.
        Cost:    two transactions for the one who computes, one for everybody else later.
        """
        ticket, outcome = self._run(self._claim())
        if outcome.state == "yours":
            try:
                value = fn()
            except BaseException as error:
                self._run(self._give_up(ticket, error))
                raise
            outcome = self._run(self._publish(ticket, value))
        return result_of(outcome)

    def forget(self) -> None:
        """Drop the result, so that the next comer computes again."""
        self._run(submit(Forget()))

    def _claim(self) -> Script:
        ticket = self._session.ticket()
        request = Claim(ticket, self.retry, self.timeout != 0)
        try:
            outcome = yield from settle(request, self.timeout, again=request._replace(retry=False))
        except TimedOut as late:
            raise self._timed_out(late) from None
        if outcome.state not in ("yours", "done", "failed"):
            raise self._refused(outcome)
        return ticket, outcome

    def _publish(self, ticket: Ticket, value: Any) -> Script:
        """Make the value everybody's; one that cannot travel is everybody's error."""
        try:
            text = fitting(values.encode(value), self)
        except Exception as error:
            yield from self._give_up(ticket, error)
            raise
        outcome = yield from conclude(Publish(ticket, text))
        if outcome.state != "done":
            raise self._refused(outcome)
        return outcome

    def _give_up(self, ticket: Ticket, error: BaseException) -> Script:
        """Make the error everybody's; but work that was interrupted is for the next one to do."""
        if isinstance(error, Exception):
            return conclude(Fail(ticket, values.encode_error(error)))
        return leave(ticket, f"was interrupted ({type(error).__name__})")


def _rebuild(session: Session, name: str, timeout: float | None, retry: bool) -> Once:
    return Once(session, name, timeout=timeout, retry=retry)


def fitting(text: str, named: Named) -> str:
    """The text of a value, if it is small enough to live in a record."""
    if len(text) > LIMIT_BYTES:
        raise LimitExceeded(
            f"the value of {named!r} has {len(text)} characters, over {LIMIT_BYTES}: write a file, return its path",
            name=named.name,
        )
    return text


def result_of(outcome: Outcome) -> Any:
    """The value of a settled outcome; raises the error if it failed."""
    if outcome.state == "failed":
        raise values.decode_error(outcome.value)
    return values.decode(outcome.value)
