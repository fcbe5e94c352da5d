"""The script: one generator that drives every blocking operation on every store.

A script never touches a store, a clock or a thread. It yields what it needs, and whoever runs it sends back the
answer: `_runners.block` for threads, `_runners.unblock` for asyncio, a seeded simulator in the tests. So waiting,
time-outs, eviction of the dead and the treatment of lost answers are written once, here:

1. submit the request; 2. until it is settled: look at the sessions it is behind, evict the proved dead, park, submit
the same request again; 3. at the deadline, or on any exception, leave. Where whoever is waited for gives signs of life
(the ``value`` of the waiting outcome changes), the timeout runs from the last one.

A store's answer can be lost (`OutcomeUnknown`). The request is then submitted again under the same ticket, which the
machines make harmless, and the error surfaces only when the deadline has passed.

Layer: above `abc` and `errors`; it knows neither machines nor stores.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Liveness, Outcome, Ticket
from interlock.errors import OutcomeUnknown, Unavailable

UNSETTLED = (WAITING, "refused")
PATIENCE_S = 3.0  # silence before the first report of a long wait; each later gap is twice as long
GRACE_S = 1.0  # how long a timed-out request tries to take itself back before that is left to the background
RETRY_S = 0.05  # pause before a request whose answer was lost is sent again


class Submit(NamedTuple):
    """Answered with the `Outcome` of a transaction on the script's object."""

    op: Any
    deadline: float | None = None


class Park(NamedTuple):
    """Answered, with nothing, when the ticket is unparked or the monotonic time `until` has come."""

    ticket: Ticket
    until: float | None


class Probe(NamedTuple):
    """Answered with the session's `Liveness`."""

    session: str


class Pause(NamedTuple):
    """Answered, with nothing, after so many seconds."""

    seconds: float


class Now(NamedTuple):
    """Answered with the monotonic clock in seconds and the wall clock in milliseconds."""


class Report(NamedTuple):
    """Tell people about a long wait; answered with nothing."""

    outcome: Outcome
    behind: tuple[Liveness, ...]
    waited: float


class Abandon(NamedTuple):
    """Have the ticket left in the background, as soon as that is possible; answered with nothing."""

    op: Leave


NOW = Now()
Script = Generator[Any, Any, Any]


class TimedOut(Exception):
    """The deadline passed and the ticket is left. For `objects`, which turn it into the error the user sees."""

    def __init__(self, outcome: Outcome | None, behind: tuple[Liveness, ...], waited: float, left: Outcome | None):
        super().__init__("timed out")
        self.outcome = outcome
        self.behind = behind
        self.waited = waited
        self.left = left


def submit(op: Any, deadline: float | None = None) -> Script:
    """Submit one op; while its answer is lost, submit it again until the deadline.

    Once an answer was lost, no later error is definite, because the op may have happened; and a ticket that is found
    to be gone has left, because its own `Leave` may have been the one.
    """
    lost: OutcomeUnknown | None = None
    while True:
        try:
            outcome = yield Submit(op, deadline)
            if lost is not None and outcome.state == "gone" and isinstance(op, Leave):
                return outcome._replace(state="left")
            return outcome
        except Unavailable as error:
            if lost is None:
                raise
            raise lost from error
        except OutcomeUnknown as error:
            lost = error
        now, _ = yield NOW
        if deadline is not None and now >= deadline:
            raise lost
        yield Pause(RETRY_S)


def settle(
    request: Any, timeout: float | None, again: Any = None, *, stands: bool = False, started: float | None = None
) -> Script:
    """Drive one request until the machine has settled it; returns the final outcome.

    `again` is what to submit after the first answer, where that differs from `request`; `stands` says that the ticket
    is in the record already, `started` since when (monotonic) the timeout runs, if not from now. Raises `TimedOut` when
    the deadline passes first, and whatever the store raises; in every case the ticket has been left by then. A
    store that cannot be reached until the deadline is a `TimedOut` too; an error with an `errno` is the system's own
    refusal, and raised as it is.
    """
    deadline = None
    if timeout is not None:
        if started is None:
            started, _ = yield NOW
        deadline = started + timeout
    try:
        try:
            outcome = yield Submit(request, reach(deadline))
        except OutcomeUnknown:
            stands = True
            outcome = yield from submit(request, reach(deadline))
        if outcome.state not in UNSETTLED:
            return outcome
        stands = True
        if started is None:
            started, _ = yield NOW
        return (yield from _wait(again or request, outcome, started, timeout))
    except (TimedOut, GeneratorExit):
        raise
    except BaseException as error:
        left = None
        if stands or not getattr(error, "definite", False):
            left = yield from leave(request.ticket, f"was interrupted ({type(error).__name__})")
        if isinstance(error, Unavailable) and getattr(error, "errno", None) is None and deadline is not None:
            now, _ = yield NOW
            if now >= deadline:
                raise TimedOut(None, (), now - deadline + (timeout or 0), left) from error
        raise


def reach(deadline: float | None) -> float | None:
    """The last look still has to reach the record: allow it the time of a few busy neighbours."""
    return None if deadline is None else deadline + GRACE_S / 4


def _wait(request: Any, outcome: Outcome, started: float, timeout: float | None) -> Script:
    """Park, look and ask again until the outcome is settled. The first look comes after the first nap, because most
    waits are short and a look at the others costs more than a hand-off."""
    deadline = None if timeout is None else started + timeout
    report_at, gap, fresh, beat = started + PATIENCE_S, PATIENCE_S, True, outcome.value
    while outcome.state in UNSETTLED:
        if timeout is not None and outcome.value != beat:
            now, _ = yield NOW
            deadline, beat = now + timeout, outcome.value
        if fresh and outcome.state == WAITING and outcome.then is None:
            fresh = False
        else:
            behind = yield from _look(outcome, reach(deadline))
            if behind is None:
                outcome = yield from submit(request, reach(deadline))
                continue
            if outcome.then is not None:
                outcome = yield from submit(outcome.then, reach(deadline))
                if outcome.state not in UNSETTLED:
                    return outcome
            now, _ = yield NOW
            if outcome.state != WAITING or (deadline is not None and now >= deadline):
                left = yield from leave(request.ticket, f"timed out after {now - started:.1f} s")
                raise TimedOut(outcome, behind, now - started, left)
            if now >= report_at:
                yield Report(outcome, behind, now - started)
                gap *= 2
                report_at = now + gap
        yield Park(request.ticket, _earlier(deadline, report_at))
        outcome = yield from submit(request, reach(deadline))
    return outcome


def _look(outcome: Outcome, deadline: float | None) -> Script:
    """The liveness of everybody the ticket is behind, or None if some were dead and are evicted now."""
    found, evicted = [], False
    for session in outcome.watch:
        life = yield Probe(session)
        if life.state == "dead":
            _, wall = yield NOW
            yield from submit(Evict(session, wall, life.proof), deadline)
            evicted = True
        else:
            found.append(life)
    return None if evicted else tuple(found)


def _earlier(deadline: float | None, other: float) -> float:
    return other if deadline is None else min(deadline, other)


def leave(ticket: Ticket, why: str = "") -> Script:
    """Leave; if the record cannot be reached soon, have that done in the background and go on."""
    now, wall = yield NOW
    op = Leave(ticket, wall, why)
    try:
        return (yield from submit(op, now + GRACE_S))
    except GeneratorExit:
        raise
    except BaseException as error:
        yield Abandon(op)
        if not isinstance(error, Unavailable | OutcomeUnknown):
            raise
        return None


def conclude(op: Any, deadline: float | None = None) -> Script:
    """Submit an op that nobody submits again: if it fails or is interrupted, its ticket leaves."""
    try:
        return (yield from submit(op, deadline))
    except GeneratorExit:
        raise
    except BaseException as error:
        yield from leave(op.ticket, f"was interrupted ({type(error).__name__})")
        raise
