"""Once: the first claimant does the work; everybody gets its value or its error.

A claim is a ticket in a row; its first ticket is the worker. If the worker abandons the work (leaves) or dies, the
next in the row becomes the worker, after a death with `recovered`. A published value or error stays until `Forget`,
or, for an error, until a claim that asks to `retry`.

Outcomes: ``yours`` with (attempt, recovered): do the work; ``waiting``; ``done`` with the value's text; ``failed`` with
the error's text; ``refused`` (tried once); ``left``, ``gone``, ``forgotten``, ``limit``. Layer: a machine.
"""

from __future__ import annotations

from typing import NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket
from interlock.machines.shape import boolean, distinct, fields, integer, items, optional_text, parse, ticket
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # claims in one record
LIMIT_BYTES = 256 * 1024  # of a value or error inside the record


class Claim(NamedTuple):
    """Ask for the result; become the worker if nobody is. `retry` forgets an error published before."""

    ticket: Ticket
    retry: bool = False
    wait: bool = True


class Publish(NamedTuple):
    """The worker's value, as text."""

    ticket: Ticket
    value: str


class Fail(NamedTuple):
    """The worker's error, as text."""

    ticket: Ticket
    error: str


class Forget(NamedTuple):
    """Drop a published value or error; a running work goes on."""


class Record(NamedTuple):
    """`claims` in arrival order; the first one works. At most one of `value` and `error` is set, and then no claims."""

    floor: int = 0
    attempts: int = 0
    recovered: bool = False
    claims: tuple[Ticket, ...] = ()
    value: str | None = None
    error: str | None = None


def _claim(record: Record, op: Claim) -> tuple[Record, Outcome]:
    if record.value is not None:
        return record, Outcome("done", record.value)
    if record.error is not None:
        if not op.retry:
            return record, Outcome("failed", record.error)
        record = record._replace(error=None)
    if op.ticket in record.claims:
        return record, _standing(record, record.claims.index(op.ticket))
    if record.claims and not op.wait:
        return record, Outcome("refused", watch=(record.claims[0].session,), position=len(record.claims))
    if len(record.claims) >= LIMIT:
        return record, Outcome("limit", LIMIT)
    attempts = record.attempts if record.claims else record.attempts + 1
    after = record._replace(claims=(*record.claims, op.ticket), attempts=attempts)
    return after, _standing(after, len(record.claims))


def _standing(record: Record, index: int) -> Outcome:
    if index == 0:
        return Outcome("yours", (record.attempts, record.recovered))
    return Outcome(WAITING, watch=(record.claims[index - 1].session,), position=index)


def _settle(record: Record, op: Publish | Fail) -> tuple[Record, Outcome]:
    if record.value is not None:
        return record, Outcome("done", record.value)
    if record.error is not None:
        return record, Outcome("failed", record.error)
    if not record.claims or record.claims[0] != op.ticket:
        return record, Outcome("gone")
    value, error = (op.value, None) if isinstance(op, Publish) else (None, op.error)
    if len(value or error or "") > LIMIT_BYTES:
        return record, Outcome("limit", LIMIT_BYTES)
    after = Record(record.floor, record.attempts, False, (), value, error)
    state = "done" if value is not None else "failed"
    return after, Outcome(state, value if error is None else error, unpark=record.claims[1:])


def _drop(record: Record, kept: tuple[Ticket, ...], recovered: bool) -> tuple[Record, Outcome]:
    if len(kept) == len(record.claims):
        return record, Outcome("gone")
    promoted = kept[:1] if kept[:1] != record.claims[:1] else ()
    after = record._replace(claims=kept, recovered=recovered, attempts=record.attempts + len(promoted))
    return after, Outcome("left", unpark=promoted)


def _leave(record: Record, op: Leave) -> tuple[Record, Outcome]:
    kept = tuple([who for who in record.claims if who != op.ticket])
    return _drop(record, kept, record.recovered)


def _evict(record: Record, op: Evict) -> tuple[Record, Outcome]:
    kept = tuple([who for who in record.claims if who.session != op.session])
    worked = bool(record.claims) and record.claims[0].session == op.session
    return _drop(record, kept, record.recovered or worked)


def _forget(record: Record, op: Forget) -> tuple[Record, Outcome]:
    if record.value is None and record.error is None:
        return record, Outcome("forgotten")
    return record._replace(value=None, error=None), Outcome("forgotten")


_STEPS: dict[type, Step] = {
    Claim: _claim, Publish: _settle, Fail: _settle, Leave: _leave, Evict: _evict, Forget: _forget,
}  # fmt: skip


class Once(Steps):
    """The machine."""

    kind = "once"
    record = Record
    steps = _STEPS

    def idle(self, record: Record) -> bool:
        return not record.claims and not record.recovered and record.value is None and record.error is None

    def sessions(self, record: Record) -> dict[str, str]:
        parts = {who.session: "waits" for who in record.claims}
        parts.update((who.session, "holds") for who in record.claims[:1])
        return parts

    def decode(self, line: str) -> Record:
        names = ("floor", "attempts", "recovered", "claims", "value", "error")
        floor, attempts, recovered, claims, value, error = fields(parse(line), *names)
        record = Record(
            integer(floor),
            integer(attempts),
            boolean(recovered),
            tuple(ticket(who) for who in items(claims)),
            optional_text(value),
            optional_text(error),
        )
        distinct(record.claims)
        if (record.value is not None) + (record.error is not None) + bool(record.claims) > 1:
            raise ValueError("a result beside running work")
        return record


ONCE = Once()
