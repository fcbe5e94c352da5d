"""Once: the first claimant does the work; everybody gets its value or its error.

- A claim is a ticket in a row; its first ticket is the worker. If the worker abandons the work (leaves) or dies, the
  next in the row becomes the worker, after a death knowing which session was `lost`.
- A result that is kept stays until `Forget`, or, if it is an error, until a claim that asks to `retry`.
- A result that is not kept is *owed* to those who had claimed by then. They are told it, and to leave when they have
  read it (``then``). It goes with the last of them; whoever claims later starts the work anew.

Outcomes: ``yours`` with (attempt, lost session or ""): do the work; ``waiting``; ``done`` with the value's text;
``failed`` with the error's text; ``refused`` (tried once); ``left`` with whether the record is idle now; ``gone``,
``forgotten``, ``limit``. Layer: a machine.
"""

from __future__ import annotations

from typing import NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket
from interlock.machines.shape import distinct, fields, integer, items, optional_session, optional_text, parse, ticket
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # claims, and tickets that are owed a result, in one record
LIMIT_BYTES = 256 * 1024  # of a value or error inside the record


class Claim(NamedTuple):
    """Ask for the result; become the worker if nobody is. `retry` forgets an error published before."""

    ticket: Ticket
    retry: bool = False
    wait: bool = True


class Publish(NamedTuple):
    """The worker's value, as text; `keep` it, or owe it to those who have claimed."""

    ticket: Ticket
    value: str
    keep: bool = True


class Fail(NamedTuple):
    """The worker's error, as text, and whether to keep it."""

    ticket: Ticket
    error: str
    keep: bool = True


class Forget(NamedTuple):
    """Drop a published value or error; a running work goes on."""


class Record(NamedTuple):
    """`claims` in arrival order; the first one works. At most one of `value` and `error` is set; then there are no
    claims, unless it is `owed`. `lost` is the session that died at work last, until there is a result."""

    floor: int = 0
    attempts: int = 0
    lost: str = ""
    claims: tuple[Ticket, ...] = ()
    value: str | None = None
    error: str | None = None
    owed: tuple[Ticket, ...] = ()


def _claim(record: Record, op: Claim) -> tuple[Record, Outcome]:
    if op.ticket in record.owed or not record.owed:
        result = _result(record, op.ticket)
        if result is not None and not (op.retry and result.state == "failed" and not record.owed):
            return record, result
    if op.ticket in record.claims:
        return record, _standing(record, record.claims.index(op.ticket))
    if record.claims and not op.wait:
        return record, Outcome("refused", watch=(record.claims[0].session,), position=len(record.claims))
    if len(record.claims) + len(record.owed) >= LIMIT:
        return record, Outcome("limit", LIMIT)
    attempts = record.attempts if record.claims else record.attempts + 1
    error = record.error if record.owed else None
    after = record._replace(claims=(*record.claims, op.ticket), attempts=attempts, error=error)
    return after, _standing(after, len(record.claims))


def _result(record: Record, ticket: Ticket) -> Outcome | None:
    then = Leave(ticket) if ticket in record.owed else None
    if record.value is not None:
        return Outcome("done", record.value, then=then)
    return None if record.error is None else Outcome("failed", record.error, then=then)


def _standing(record: Record, index: int) -> Outcome:
    if index == 0:
        return Outcome("yours", (record.attempts, record.lost))
    return Outcome(WAITING, watch=(record.claims[index - 1].session,), position=index)


def _settle(record: Record, op: Publish | Fail) -> tuple[Record, Outcome]:
    result = _result(record, op.ticket)
    if result is not None and (op.ticket in record.owed or not record.owed):
        return record, result
    if not record.claims or record.claims[0] != op.ticket:
        return record, Outcome("gone")
    value, error = (op.value, None) if isinstance(op, Publish) else (None, op.error)
    if len(value or error or "") > LIMIT_BYTES:
        return record, Outcome("limit", LIMIT_BYTES)
    owed = () if op.keep else record.owed + record.claims
    after = Record(record.floor, record.attempts, "", (), value, error, owed)
    told = _result(after, op.ticket)
    assert told is not None
    return after, told._replace(unpark=record.claims[1:])


def _drop(record: Record, claims: tuple[Ticket, ...], owed: tuple[Ticket, ...], lost: str) -> tuple[Record, Outcome]:
    if len(claims) == len(record.claims) and len(owed) == len(record.owed):
        return record, Outcome("gone")
    promoted = claims[:1] if claims[:1] != record.claims[:1] else ()
    after = record._replace(claims=claims, owed=owed, lost=lost, attempts=record.attempts + len(promoted))
    if record.owed and not owed:
        after = after._replace(value=None, error=None)
    return after, Outcome("left", ONCE.idle(after), unpark=promoted)


def _leave(record: Record, op: Leave) -> tuple[Record, Outcome]:
    claims = tuple([who for who in record.claims if who != op.ticket])
    return _drop(record, claims, tuple([who for who in record.owed if who != op.ticket]), record.lost)


def _evict(record: Record, op: Evict) -> tuple[Record, Outcome]:
    claims = tuple([who for who in record.claims if who.session != op.session])
    worked = bool(record.claims) and record.claims[0].session == op.session
    owed = tuple([who for who in record.owed if who.session != op.session])
    return _drop(record, claims, owed, op.session if worked else record.lost)


def _forget(record: Record, op: Forget) -> tuple[Record, Outcome]:
    if record.value is None and record.error is None:
        return record, Outcome("forgotten")
    return record._replace(value=None, error=None, owed=()), Outcome("forgotten", unpark=record.owed)


_STEPS: dict[type, Step] = {
    Claim: _claim, Publish: _settle, Fail: _settle, Leave: _leave, Evict: _evict, Forget: _forget,
}  # fmt: skip


class Once(Steps):
    """The machine."""

    kind = "once"
    record = Record
    steps = _STEPS

    def idle(self, record: Record) -> bool:
        return not record.claims and not record.lost and record.value is None and record.error is None

    def sessions(self, record: Record) -> dict[str, str]:
        parts = {who.session: "waits" for who in record.owed + record.claims}
        parts.update((who.session, "holds") for who in record.claims[:1])
        return parts

    def decode(self, line: str) -> Record:
        floor, attempts, lost, claims, value, error, owed = fields(parse(line), *Record._fields)
        record = Record(
            integer(floor),
            integer(attempts),
            optional_session(lost),
            tuple(ticket(who) for who in items(claims)),
            optional_text(value),
            optional_text(error),
            tuple(ticket(who) for who in items(owed)),
        )
        distinct(record.claims + record.owed)
        results = (record.value is not None) + (record.error is not None)
        if results > 1 or (results and record.claims and not record.owed) or (record.owed and not results):
            raise ValueError("a result beside running work, or owed without being there")
        return record


ONCE = Once()
