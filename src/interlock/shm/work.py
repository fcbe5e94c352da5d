"""Work that is done once, in shared memory: the steps of its machine, by the core.

A result is written before the core names its attempt. Where a result is named and its file is gone, the word is looked
at again: it was forgotten, or there is a newer one.

Layer: under `shm.store`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from interlock.abc import WAITING, Leave, Outcome, Ticket
from interlock.machines.once import LIMIT_BYTES, ONCE, Claim, Fail, Forget, Publish
from interlock.shm.results import Results
from interlock.shm.seen import claimed, number


class Work(NamedTuple):
    """A once: its object, and where its results are, under which name."""

    region: Any
    results: Results
    filed: str

    def step(self, op: Any) -> Outcome | None:
        """One step of the machine; None if the object is closed: then something else has the name, or nothing."""
        if isinstance(op, Claim):
            return self._claim(op)
        if isinstance(op, Leave):
            left = self.region.leave(*_numbers(op.ticket), True)[0]
            return Outcome(left, ONCE.idle(claimed(self.region)) if left == "left" else None)
        if isinstance(op, Publish | Fail):
            return self._settle(op)
        assert isinstance(op, Forget)
        self.results.drop(self.filed, self.region.forget() + 1)
        return Outcome("forgotten")

    def _claim(self, op: Claim) -> Outcome | None:
        missing = 0
        while True:
            state, attempt, _, _ = self.region.acquire(*_numbers(op.ticket), op.retry, op.wait)
            if state == "retired":
                return None
            if state not in ("kept", "owed"):
                return self._standing(state, attempt, op.ticket)
            outcome = self._outcome_of(attempt, state == "kept")
            if outcome is not None:
                return outcome._replace(then=Leave(op.ticket)) if state == "owed" else outcome
            if attempt != missing:
                missing = attempt  # there may be a newer one
            elif state == "kept":
                raise self.results.missing(self.filed, attempt)
            else:
                self.region.leave(*_numbers(op.ticket), True)  # it was forgotten

    def _outcome_of(self, attempt: int, kept: bool) -> Outcome | None:
        """What an attempt came to; None if that is gone. Of what is not kept the file alone tells whether it is."""
        outcome: Outcome | None = self.region.recall(attempt) if kept else None
        if outcome is None and (result := self.results.read(self.filed, attempt)) is not None:
            outcome = Outcome(*result)
            if kept:
                self.region.remember(attempt, outcome)
        return outcome

    def _standing(self, state: str, attempt: int, ticket: Ticket) -> Outcome:
        if state in ("gone", "limit"):
            return Outcome(state, len(self.region.snapshot()[2]) if state == "limit" else None)
        record = claimed(self.region)
        if state == "granted":
            return Outcome("yours", (attempt - self.region.attempts()[0], record.lost))
        claims = record.claims
        if state == "refused":
            return Outcome(state, watch=tuple(who.session for who in claims[:1]), position=len(claims))
        position = claims.index(ticket) if ticket in claims else len(claims)
        return Outcome(WAITING, watch=tuple(who.session for who in claims[:position][-1:]), position=position)

    def _settle(self, op: Publish | Fail) -> Outcome:
        text, state = (op.value, "done") if isinstance(op, Publish) else (op.error, "failed")
        attempt = self.region.works(*_numbers(op.ticket))
        if attempt and len(text) > LIMIT_BYTES:
            return Outcome("limit", LIMIT_BYTES)
        if attempt:
            self.results.write(self.filed, attempt, state, text)
        if not attempt or not self.region.settle(*_numbers(op.ticket), state == "failed", op.keep):
            return self._told(op.ticket)
        self.results.drop(self.filed, attempt)
        return Outcome(state, text, then=None if op.keep else Leave(op.ticket))

    def _told(self, ticket: Ticket) -> Outcome:
        """What is left to say to a ticket that does not work any more."""
        record = claimed(self.region, functools.partial(self.results.read, self.filed))
        owed = ticket in record.owed
        if (record.value, record.error) == (None, None) or (record.owed and not owed):
            return Outcome("gone")
        told = ("done", record.value) if record.value is not None else ("failed", record.error)
        return Outcome(*told, then=Leave(ticket) if owed else None)


def _numbers(ticket: Ticket) -> tuple[int, int]:
    return number(ticket.session), ticket.serial
