"""Admission: one first-come-first-served engine under lock, reader-writer lock and semaphore.

A record is a row of entries in arrival order. An entry with a token holds; one without waits. The rules:

- the row is served strictly in order: the first waiting entry is granted as soon as it fits, never overtaken;
- an exclusive entry fits when nobody holds; a shared one when no exclusive entry holds and, in a semaphore,
  fewer than `permits` entries hold;
- a lock is a reader-writer lock that nobody reads; a semaphore is one that nobody writes;
- every grant takes the next token, so a later holder's token is larger than an earlier one's;
- when an exclusive holder or a permit's holder is evicted, the next grant says `recovered`: what it guards may be
  half-written. Readers are told too, and go on being told until an exclusive holder has had the chance to repair;
  one that gives up (leaves with a reason) had none: its grant may have come after its time, and the news goes on.

Outcomes: ``granted`` with a `Held`, ``waiting``, ``refused`` (tried once), ``gone`` (no such ticket), ``left``,
``mismatch`` with the record's permits, ``limit``.

Layer: a machine; it imports only `interlock.abc` and the record's shape checks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket, takes
from interlock.machines.shape import distinct
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # entries in one record; a further one is told ``limit``


class Acquire(NamedTuple):
    """Take a place in the row: exclusive or `shared`; with ``wait=False`` only if it is granted at once."""

    ticket: Ticket
    shared: bool = False
    permits: int = 0
    wait: bool = True
    at: int = 0


class Downgrade(NamedTuple):
    """Turn an exclusive hold into a shared one, letting in the readers that wait behind it."""

    ticket: Ticket
    at: int = 0


class Entry(NamedTuple):
    """One ticket's place: it holds if its token is not 0. `since` (ms) is when it came to its present standing."""

    ticket: Ticket
    shared: bool
    token: int
    since: int
    recovered: bool


class Record(NamedTuple):
    """`permits` is 0 for locks; `recovered` is a death not yet told to an exclusive holder."""

    token: int
    permits: int = 0
    recovered: bool = False
    entries: tuple[Entry, ...] = ()


class Held(NamedTuple):
    """What a granted ticket holds; `since` in wall-clock milliseconds."""

    token: int
    recovered: bool
    since: int


_GONE = Outcome("gone")


def _acquire(record: Record, op: Acquire) -> tuple[Record, Outcome]:
    entries = record.entries
    if not entries:
        if record.permits != op.permits:
            record = record._replace(permits=op.permits)
        return _admit(record, op)
    for index, entry in enumerate(entries):
        if entry.ticket == op.ticket:
            return record, _standing(record, index)
    if record.permits != op.permits:
        return record, Outcome("mismatch", record.permits)
    fits = entries[-1].token and _fits(entries, op.shared, record.permits)
    if not fits and not op.wait:
        holders = tuple(dict.fromkeys(entry.ticket.session for entry in entries))
        return record, Outcome("refused", watch=holders, position=len(entries))
    if len(entries) >= LIMIT:
        return record, Outcome("limit", LIMIT)
    if fits:
        return _admit(record, op)
    waiting = Record(
        record.token, record.permits, record.recovered, (*entries, Entry(op.ticket, op.shared, 0, op.at, False))
    )
    return waiting, _standing(waiting, len(entries))


def _admit(record: Record, op: Acquire) -> tuple[Record, Outcome]:
    token = record.token + 1
    told = record.recovered
    left = told and op.shared and not record.permits
    held = (*record.entries, Entry(op.ticket, op.shared, token, op.at, told))
    return Record(token, record.permits, left, held), Outcome("granted", Held(token, told, op.at))


def _fits(holding: tuple[Entry, ...] | list[Entry], shared: bool, permits: int) -> bool:
    if not holding:
        return True
    return shared and holding[0].shared and (not permits or len(holding) < permits)


def _standing(record: Record, index: int) -> Outcome:
    entry = record.entries[index]
    if entry.token:
        return Outcome("granted", Held(entry.token, entry.recovered, entry.since))
    ahead = record.entries[index - 1]
    if not ahead.token:
        return Outcome(WAITING, watch=(ahead.ticket.session,), position=index)
    holders = tuple(dict.fromkeys(other.ticket.session for other in record.entries[:index]))
    return Outcome(WAITING, watch=holders, position=index)


def _serve(record: Record, at: int) -> tuple[Record, tuple[Ticket, ...]]:
    """Grant from the front of the row while the next one fits."""
    entries = record.entries
    if not entries or entries[-1].token:
        return record, ()
    token, recovered = record.token, record.recovered
    row: list[Entry] = []
    woken: list[Ticket] = []
    for index, entry in enumerate(entries):
        if not entry.token:
            if not _fits(row, entry.shared, record.permits):
                row.extend(entries[index:])
                break
            token += 1
            entry = Entry(entry.ticket, entry.shared, token, at, recovered)
            recovered = recovered and entry.shared and not record.permits
            woken.append(entry.ticket)
        row.append(entry)
    return Record(token, record.permits, recovered, tuple(row)), tuple(woken)


def _leave(record: Record, op: Leave) -> tuple[Record, Outcome]:
    kept = tuple([entry for entry in record.entries if entry.ticket != op.ticket])
    if len(kept) == len(record.entries):
        return record, _GONE
    untold = bool(op.why) and any(
        entry.recovered and _repairs(record, entry) and takes(op, entry.ticket) for entry in record.entries
    )
    served, woken = _serve(Record(record.token, record.permits, record.recovered or untold, kept), op.at)
    return served, Outcome("left", unpark=woken)


def _evict(record: Record, op: Evict) -> tuple[Record, Outcome]:
    kept = tuple([entry for entry in record.entries if entry.ticket.session != op.session])
    if len(kept) == len(record.entries):
        return record, _GONE
    died = any(entry.token and _repairs(record, entry) and takes(op, entry.ticket) for entry in record.entries)
    served, woken = _serve(Record(record.token, record.permits, record.recovered or died, kept), op.at)
    return served, Outcome("left", unpark=woken)


def _repairs(record: Record, entry: Entry) -> bool:
    """Whether the entry is for one who may change what is guarded: not a reader."""
    return record.permits > 0 or not entry.shared


def _downgrade(record: Record, op: Downgrade) -> tuple[Record, Outcome]:
    for index, entry in enumerate(record.entries):
        if entry.ticket == op.ticket and entry.token:
            if entry.shared:
                return record, _standing(record, index)
            row = (*record.entries[:index], entry._replace(shared=True), *record.entries[index + 1 :])
            served, woken = _serve(record._replace(entries=row), op.at)
            return served, _standing(served, index)._replace(unpark=woken)
    return record, _GONE


# Encoded and decoded by hand, not by `json`: this is on the way of every acquire. The patterns accept what `encode`
# writes and nothing else, which is also the strictest check.
_WORD = {True: "true", False: "false"}
_ENTRY = (
    r'\{"session":"([0-9A-Za-z_-]{1,64})","serial":(\d{1,18}),"shared":(true|false),"token":(\d{1,18}),'
    r'"since":(\d{1,18}),"recovered":(true|false)\}'
)
_PLAIN = _ENTRY.replace("(", "(?:")
_RECORD = re.compile(
    r'\{"token":(\d{1,18}),"permits":(\d{1,18}),"recovered":(true|false),'
    rf'"entries":\[((?:{_PLAIN}(?:,{_PLAIN})*)?)\]\}}',
    re.ASCII,
)
_ENTRIES = re.compile(_ENTRY, re.ASCII)

_STEPS: dict[type, Step] = {Acquire: _acquire, Leave: _leave, Evict: _evict, Downgrade: _downgrade}


class Admission(Steps):
    """The engine as a machine; the two kinds differ in name only, so that a lock is never taken for a semaphore."""

    record = Record
    steps = _STEPS

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def idle(self, record: Record) -> bool:
        return not record.entries and not record.recovered

    def sessions(self, record: Record) -> dict[str, str]:
        parts = {entry.ticket.session: "waits" for entry in record.entries}
        parts.update((entry.ticket.session, "holds") for entry in record.entries if entry.token)
        return parts

    def encode(self, record: Record) -> str:
        row = ",".join(
            [
                f'{{"session":"{who[0]}","serial":{who[1]},"shared":{_WORD[shared]},"token":{token},'
                f'"since":{since},"recovered":{_WORD[recovered]}}}'
                for who, shared, token, since, recovered in record.entries
            ]
        )
        return (
            f'{{"token":{record.token},"permits":{record.permits},'
            f'"recovered":{_WORD[record.recovered]},"entries":[{row}]}}'
        )

    def decode(self, line: str) -> Record:
        found = _RECORD.fullmatch(line)
        if found is None:
            raise ValueError("not a record of this kind")
        token, permits, recovered, row = found.groups()
        entries = tuple(
            [
                Entry(Ticket(session, int(serial)), shared == "true", int(held), int(since), told == "true")
                for session, serial, shared, held, since, told in _ENTRIES.findall(row)
            ]
        )
        record = Record(int(token), int(permits), recovered == "true", entries)
        if entries and (len(entries) > 1 or entries[0].token > record.token):
            _check(record)
        return record


def _check(record: Record) -> None:
    tickets, shares, tokens, _, _ = zip(*record.entries, strict=True)
    distinct(tickets)
    holders = tokens.index(0) if 0 in tokens else len(tokens)
    if any(tokens[holders:]) or max(tokens) > record.token:
        raise ValueError("holders out of order")
    if holders > 1 and not all(shares[:holders]):
        raise ValueError("two holders of an exclusive lock")
    if record.permits and holders > record.permits:
        raise ValueError("more holders than permits")


LOCK = Admission("lock")
SEMAPHORE = Admission("semaphore")
