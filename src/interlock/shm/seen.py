"""What stands in an object of shared memory, as its machine would record it.

A look is not one instant: so somebody who came while it went on may seem to hold beside who left, and is left out.

Layer: under `shm.store`; of the machines it names the records of the kinds that the core realises.
"""

from __future__ import annotations

import re
from typing import Any

from interlock.abc import Stored, Ticket
from interlock.machines import admission, event, once

KINDS = {"lock": 1, "semaphore": 2, "barrier": 3, "event": 4, "once": 5}
NAMES = {code: kind for kind, code in KINDS.items()}
MACHINES = {"lock": admission.LOCK, "semaphore": admission.SEMAPHORE, "event": event.EVENT, "once": once.ONCE}
_ID = re.compile("[0-9a-f]{16}")


def number(session: str) -> int:
    """The id of a session as the core knows it; 0, which is nobody's, for an id that no session here can have."""
    return int(session, 16) if _ID.fullmatch(session) else 0


def _ticket(session: int, serial: int) -> Ticket:
    return Ticket(f"{session:016x}", serial)


def admitted(region: Any) -> admission.Record:
    """Who holds, and who waits in the order of arrival."""
    counter, lost, rows = region.snapshot()
    kind, permits = NAMES[region.shape[0]], region.shape[1]
    semaphore = kind == "semaphore"
    held, waiting = [], []
    for part, arrival, session, serial, token, since, shared, told in rows:
        ticket = _ticket(session, serial)
        if part in "xr":
            token = min(token, counter) or counter
            held.append(admission.Entry(ticket, semaphore or part == "r", token, since, told))
        elif part in "wd":
            waiting.append((part == "w", arrival, admission.Entry(ticket, semaphore or shared, 0, since, False)))
    alone = [entry for entry in held if not entry.shared]
    held = alone[:1] or held[: permits if semaphore else None]
    row = [entry for _, _, entry in sorted(waiting, key=lambda each: each[:2])]
    return admission.Record(counter, permits if semaphore else 0, lost, (*held, *row))


def claimed(region: Any, results: Any = lambda attempt: ("done", "")) -> once.Record:
    """Who works, who waits for the result, and the result, which `results` finds for an attempt, unless its text is of
    no interest. Who was owed a result that was forgotten since is nobody, until it asks again."""
    floor, last, handed, kept, lost = region.attempts()
    rows = sorted(region.snapshot()[2], key=lambda row: (row[0] != "x", row[1]))
    stand = [(_ticket(session, serial), token) for part, _, session, serial, token, *_ in rows if part in "xw"]
    record = once.Record(last, last - floor, f"{lost:016x}" if lost else "")
    working = rows[:1] and rows[0][0] == "x"
    owed = tuple(ticket for ticket, token in stand[bool(working) :] if token <= handed)
    result = results(last if kept else handed) if kept or owed else None
    claims = tuple(ticket for ticket, _ in stand if ticket not in owed)
    if result is None:
        return record._replace(claims=claims)
    record = record._replace(**{"value" if result[0] == "done" else "error": result[1]})
    return record if kept else record._replace(owed=owed, claims=claims)


def stored(name: str, region: Any, results: Any) -> Stored:
    """The object as a store tells of it."""
    kind = NAMES[region.shape[0]]
    record: Any = claimed(region, results) if kind == "once" else admitted(region)
    token = region.snapshot()[0]
    if kind == "event":
        waiters = tuple(event.Waiter(entry.ticket, region.is_set()) for entry in record.entries)
        record = event.Record(token, region.is_set(), waiters)
    return Stored(name, kind, token, MACHINES[kind].encode(record))
