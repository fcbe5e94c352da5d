"""Random walks: any op, in any order, from anybody, with every law checked at each step.

Where the explorer follows parties that behave, a walk does not: tickets are used twice, things are given back that
were never held, parameters change. The laws hold all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from interlock.abc import Evict, Leave, Ticket, unseen
from machines.laws import examine, tickets

SESSIONS = ("a", "b", "c")
EVICTED = (*SESSIONS, *SESSIONS, unseen("0"), unseen("1"))
TICKETS = st.builds(Ticket, st.sampled_from(SESSIONS), st.integers(0, 1))
WHY = st.sampled_from(("", "timed out"))
AT = st.integers(0, 10**13)
LABELS = st.sampled_from(("", "0", "1", "2"))
TEXT = st.text(max_size=3)


def ops_of(module: ModuleType, kind: str) -> st.SearchStrategy[Any]:
    """Any op of the machine, those that set something going more often than those that end it."""
    own = {
        "lock": _admission,
        "semaphore": _admission,
        "barrier": _barrier,
        "event": _event,
        "once": _once,
        "fence": _fence,
    }[kind](module, kind)
    leave, evict = st.builds(Leave, TICKETS, AT, WHY), st.builds(Evict, st.sampled_from(EVICTED), AT, WHY)
    return st.sampled_from([*own, leave, evict]).flatmap(lambda kind_of_op: kind_of_op)


def _admission(module: ModuleType, kind: str) -> list[st.SearchStrategy[Any]]:
    if kind == "semaphore":
        permits = st.sampled_from((1, 2, 2, 2, 3))
        return [st.builds(module.Acquire, TICKETS, st.just(True), permits, st.booleans(), AT)] * 3
    acquire = st.builds(module.Acquire, TICKETS, st.booleans(), st.just(0), st.booleans(), AT)
    return [acquire] * 4 + [st.builds(module.Downgrade, TICKETS, AT)]


def _barrier(module: ModuleType, kind: str) -> list[st.SearchStrategy[Any]]:
    arrive = st.builds(module.Arrive, TICKETS, st.sampled_from((2, 2, 2, 3, 1)), LABELS)
    complete = st.builds(module.Complete, TICKETS, st.integers(0, 2))
    return (
        [arrive] * 5
        + [complete] * 3
        + [st.builds(module.Abort, TEXT, st.sampled_from(("", *SESSIONS))), st.builds(module.Reset)]
    )


def _event(module: ModuleType, kind: str) -> list[st.SearchStrategy[Any]]:
    return [st.builds(module.Wait, TICKETS, st.booleans())] * 3 + [st.builds(module.Set), st.builds(module.Clear)]


def _once(module: ModuleType, kind: str) -> list[st.SearchStrategy[Any]]:
    claim = st.builds(module.Claim, TICKETS, st.booleans(), st.booleans())
    publish = st.builds(module.Publish, TICKETS, TEXT, st.booleans())
    fail = st.builds(module.Fail, TICKETS, TEXT, st.booleans())
    return [claim] * 4 + [publish, fail, st.builds(module.Forget)]


def _fence(module: ModuleType, kind: str) -> list[st.SearchStrategy[Any]]:
    writer = st.sampled_from(("", "", "0"))
    join = st.builds(module.Join, TICKETS, st.sampled_from(("0", "1", "2")), st.sampled_from((2, 2, 3)), writer)
    beat = st.builds(module.Beat, TICKETS, st.integers(0, 2))
    return [join] * 4 + [st.builds(module.Publish, TICKETS, TEXT)] * 2 + [st.builds(module.Fail, TICKETS, TEXT), beat]


def walk(module: ModuleType, machine: Any, ops: Iterable[Any]) -> Any:
    """Apply the ops one after the other, checking every law at each; returns the last record."""
    record, requests = machine.initial(7), {}
    for op in ops:
        ticket = getattr(op, "ticket", None)
        if ticket is not None and ticket not in tickets(machine.kind, record):
            requests[ticket] = op
        record = examine(module, machine, record, op, requests).after
    return record


def walks(module: ModuleType, machine: Any) -> st.SearchStrategy[list[Any]]:
    """Sequences of ops, long enough to fill a generation or a turn and to come back."""
    op = ops_of(module, machine.kind)
    return st.lists(op, max_size=8) | st.lists(op, min_size=12, max_size=40)


def wander(module: ModuleType, machine: Any, examples: int = 2000) -> None:
    """Walk many times, always the same ways; raises `Violation`."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(walks(module, machine))
    def wandering(ops: list[Any]) -> None:
        walk(module, machine, ops)

    wandering()
