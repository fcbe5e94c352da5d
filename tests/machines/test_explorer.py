"""Each machine, explored exhaustively: every interleaving of three parties with one fault of each kind.

The programs are chosen so that each is explored whole in seconds: two rounds for locks, semaphores, barriers and
fences; a third turn or generation, in which the memory of the last one matters, with crashes and time-outs only. Four
parties, or three turns with every fault, are in the slow suite, there with one round each or without lost answers and
late requests where the whole would not end. Equal programs begin in one order, since any other is the same run renamed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machines.explorer import Faults, Model, explore
from machines.laws import Violation
from machines.models import Admission, Barrier, Event, Fence, Once

CRASHES_AND_EXPIRIES = Faults(crash=1, lose=0, delay=0, expire=1)
TWICE = ("write", "write")

QUICK: dict[str, tuple[Callable[[], Model], int]] = {
    "lock": (lambda: Admission((TWICE, TWICE, TWICE)), 45_000),
    "rwlock": (lambda: Admission((("downgrade", "read"), ("read", "write"), ("write", "read"))), 120_000),
    "try-lock": (lambda: Admission((("write", "try"), ("try", "write"), ("read", "try"))), 10_000),
    "semaphore": (lambda: Admission((("permit", "permit"),) * 3, permits=2), 100_000),
    "barrier": (lambda: Barrier(3), 290_000),
    "barrier, in pairs": (lambda: Barrier(4, 1, CRASHES_AND_EXPIRIES, parties=2), 10_000),
    "event": (lambda: Event((("wait", "wait"), ("wait", "try"), ("set", "clear", "set"))), 16_000),
    "once": (lambda: Once((("value", "value"),) * 3), 9_000),
    "once, retried": (lambda: Once((("error", "value"), ("value", "retry"), ("error", "quit", "value"))), 90_000),
    "once, owed": (lambda: Once((("owe error", "owe"), ("owe",), ("owe error",))), 30_000),
    "fence": (lambda: Fence(3), 170_000),
    "fence, lasting": (lambda: Fence(3, faults=CRASHES_AND_EXPIRIES, lasting=True), 10_000),
    "fence, third turn": (lambda: Fence(3, 3, faults=CRASHES_AND_EXPIRIES), 60_000),
}

SLOW: dict[str, tuple[Callable[[], Model], int]] = {
    "lock": (lambda: Admission((TWICE,) * 4, faults=Faults(lose=0)), 160_000),
    "rwlock": (lambda: Admission((("downgrade",), ("read",), ("write",), ("read",))), 140_000),
    "semaphore": (lambda: Admission((("permit",),) * 4, permits=2), 18_000),
    "barrier": (lambda: Barrier(4, 1), 300_000),
    "barrier, second meeting": (lambda: Barrier(4, 2, CRASHES_AND_EXPIRIES), 550_000),
    "event": (lambda: Event((("wait", "wait"), ("wait", "try"), ("wait",), ("set", "clear", "set"))), 190_000),
    "once": (lambda: Once((("value", "value"),) * 4), 37_000),
    "once, retried": (lambda: Once((("error",), ("value", "retry"), ("error", "quit"), ("retry",))), 400_000),
    "fence": (lambda: Fence(4, 1), 79_000),
    "fence, second turn": (lambda: Fence(4, 2, faults=CRASHES_AND_EXPIRIES), 220_000),
    "fence, writer chosen": (lambda: Fence(3, writer=0), 220_000),
    "fence, writer chosen, second turn": (lambda: Fence(4, 2, writer=0, faults=CRASHES_AND_EXPIRIES), 700_000),
    "fence, third turn, every fault": (lambda: Fence(3, 3), 850_000),
    "barrier, third meeting": (lambda: Barrier(3, 3, CRASHES_AND_EXPIRIES), 20_000),
    "barrier, without ranks": (lambda: Barrier(3, ranked=False), 200_000),
    "fence, writer chosen, third turn": (lambda: Fence(3, 3, writer=0, faults=CRASHES_AND_EXPIRIES), 40_000),
}


def explored(make: Callable[[], Model], least: int) -> None:
    report = explore(make())
    print(f"{report.states:,} states, {report.moves:,} moves, {report.ends:,} ends")
    assert report.states >= least
    assert report.ends > 0


@pytest.mark.parametrize("case", QUICK)
def test_three_parties(case: str) -> None:
    """No law is broken in any state, no belief is wrong, and every state leads to everybody's end."""
    explored(*QUICK[case])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", SLOW)
def test_more_parties_and_turns(case: str) -> None:
    """The same with one party or one turn more, and without ranks."""
    explored(*SLOW[case])


@pytest.mark.parametrize(
    "make", [QUICK["lock"][0], QUICK["semaphore"][0], QUICK["event"][0], QUICK["once"][0], QUICK["fence"][0]]
)
def test_the_ghost_walks_without_the_rule_for_leaving(make: Callable[[], Model]) -> None:
    """If leaving did not always write, a request that comes late would take a place that nobody owns."""
    model = make()
    model.leaves_always_write = False
    with pytest.raises(Violation, match="somebody still wants"):
        explore(model)


def test_a_violation_tells_the_shortest_run() -> None:
    """A failed search names each step that leads to the broken law."""
    model = QUICK["lock"][0]()
    model.leaves_always_write = False
    with pytest.raises(Violation) as broken:
        explore(model)
    told = str(broken.value).splitlines()
    assert told[1:3] == ["  start", told[2]]
    assert [line.split(",")[0].strip() for line in told[2:-1]] == ["delays", "expires", "submits", "ghost"]


def test_a_search_that_would_not_end_is_stopped() -> None:
    """The ceiling on states is an error, not a silent success."""
    with pytest.raises(RuntimeError, match="more than 100 states"):
        explore(QUICK["lock"][0](), ceiling=100)
