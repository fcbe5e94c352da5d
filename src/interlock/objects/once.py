"""Once: the first comer computes, everybody gets the result or the same error.

Layer: an object.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from interlock import results, values
from interlock._script import Script, TimedOut, conclude, leave, settle, submit
from interlock.abc import Outcome, Ticket
from interlock.errors import OwnerDied, RecordInvalid
from interlock.machines.once import ONCE, Claim, Fail, Forget, Publish
from interlock.objects.named import Named, check_timeout

if TYPE_CHECKING:
    from interlock.session import Session


class Once(Named):
    """One computation under a name, done by whoever comes first.

    Args: timeout: seconds to wait for whoever computes; None waits for ever.
          retry: compute again if the result that is there is an error.
          keep: let the result stay until `forget`. Otherwise it goes to those who wait for it and to nobody else, and
          the record with it.
          takeover: let the next one compute if whoever computes dies; otherwise all get `OwnerDied`.
    """

    machine = ONCE

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        timeout: float | None = None,
        retry: bool = False,
        keep: bool = True,
        takeover: bool = True,
    ) -> None:
        super().__init__(session, name)
        self.timeout = check_timeout(timeout)
        self.retry = retry
        self.keep = keep
        self.takeover = takeover

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in ("timeout", "retry", "keep", "takeover")}
        return _rebuild, (self._session, self.name, options)

    def run(self, fn: Callable[[], Any]) -> Any:
        """The result of `fn`, computed by the first comer among all participants.

        Args:    fn: called at most once at a time among all; for what its value can be see `interlock.values`. Large
                 arrays, bytes and texts travel by a file, and arrays come back as read-only memory maps.
        Returns: the value as everybody reads it.
        Raises:  the error `fn` raised, on every participant, with the original traceback as a note; it stays the
                 result until `forget`, unless ``retry``. AcquireTimeout: somebody else still computes (definite).
                 OwnerDied: whoever computed died, without ``takeover``.
        Crash:   if the participant that computes dies or is interrupted, the next one computes.
        Cost:    two transactions for the one who computes, one for everybody else later; one more each if not kept.
        """
        ticket, outcome = self._run(self._claim())
        if outcome.state == "yours":
            try:
                self._forbid(outcome)
                attempt = outcome.value[0]
                text = results.pack(fn(), self._session.store, self.name, attempt)
            except BaseException as error:
                self._part(self._run(self._give_up(ticket, error)) or outcome)
                raise
            outcome = self._run(self._publish(ticket, attempt, text))
        try:
            return results.result_of(outcome, self._session.store)
        except results.Missing:
            if self._record().value == outcome.value:
                raise
            return self.run(fn)  # it was forgotten since, or made anew
        finally:
            self._part(outcome)

    def forget(self) -> None:
        """Drop the result, so that the next comer computes again."""
        record = None
        with suppress(RecordInvalid):  # it may be the result alone that cannot be read
            record = self._record()
        self._run(submit(Forget()))
        if record is not None:
            results.supersede(self._session.store, self.name, record.attempts + (not record.claims))

    def _part(self, outcome: Outcome) -> None:
        """Having read a result that is not kept, leave; the last one to do so clears up."""
        left = None if outcome.then is None else self._run(leave(outcome.then.ticket))
        if left is not None and left.value:
            self._session.store.retire(self.name, self.machine)
            if outcome.state == "done":
                results.withdraw(outcome.value, self._session.store)

    def _forbid(self, outcome: Outcome) -> None:
        """Refuse to follow a worker that died, where that was asked for."""
        _, lost = outcome.value
        if lost and not self.takeover:
            who = "; ".join(holder.describe() for holder in self._people([lost])) or f"session {lost}"
            raise OwnerDied(f"whoever computed {self!r} died: {who}", name=self.name, scope=self._session.url)

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

    def _publish(self, ticket: Ticket, attempt: int, text: str) -> Script:
        """Make the value everybody's."""
        outcome = yield from conclude(Publish(ticket, text, self.keep))
        if outcome.state != "done":
            raise self._refused(outcome)
        results.supersede(self._session.store, self.name, attempt)
        return outcome

    def _give_up(self, ticket: Ticket, error: BaseException) -> Script:
        """Make the error everybody's; but work that was interrupted, or came to nothing, is for the next one to do."""
        if not isinstance(error, Exception) or isinstance(error, results.Unstored):
            return (yield from leave(ticket, f"was interrupted ({type(error).__name__})"))
        text = values.encode_error(error, self._session.holder.describe())
        return (yield from conclude(Fail(ticket, text, self.keep)))


def _rebuild(session: Session, name: str, options: dict[str, Any]) -> Once:
    return Once(session, name, **options)
