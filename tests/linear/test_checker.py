"""The checker itself: against the definition on small histories, and against histories that are known to be wrong."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from linear.checker import NOT_KNOWN, Operation, Specification, linearizable, linearizable_by_trying_everything
from linear.specifications import Admission, Counter, Flag, OneResult


def op(who: int, what: str, called: float, returned: float, result: Any = None, argument: Any = None) -> Operation:
    return Operation(who, what, argument, result, called, returned)


RESULTS: dict[str, tuple[Specification, list[tuple[str, Any, list[Any]]]]] = {
    "lock": (
        Admission(),
        [
            ("write", None, [[1, False], [2, False], [2, True], None]),
            ("release", 1, [None]),
            ("release", 2, [None]),
            ("die", None, [None]),
        ],
    ),
    "readers": (
        Admission(),
        [("read", None, [[1, False], [2, False]]), ("write", None, [[1, False], [2, True]]), ("release", 1, [None])],
    ),
    "semaphore": (
        Admission(2),
        [("write", None, [[1, False], [2, False], [3, True], None]), ("release", 1, [None]), ("die", None, [None])],
    ),
    "event": (Flag(), [("set", None, [None]), ("clear", None, [None]), ("wait", None, [True, False])]),
    "once": (OneResult(), [("run", "a", ["a", "b"]), ("run", "b", ["a", "b"]), ("forget", None, [None])]),
    "counter": (Counter(), [("add", 1, [1, 2, 3]), ("add", 0, [0, 1, 2])]),
}


@pytest.mark.parametrize("kind", sorted(RESULTS))
def test_it_agrees_with_the_definition(kind: str) -> None:
    """On random small histories, right and wrong ones, the search says what trying everything says."""
    specification, choices = RESULTS[kind]
    chance, verdicts = random.Random(kind), [0, 0]
    for _ in range(600):
        history = []
        for who in range(chance.randint(1, 5)):
            what, argument, results = chance.choice(choices)
            called, length = chance.randint(0, 8), chance.randint(1, 6)
            died = chance.random() < 0.2
            result = NOT_KNOWN if died else chance.choice(results)
            returned = math.inf if died else called + length + 0.5
            history.append(op(who % 3, what, called, returned, result, argument))
        expected = linearizable_by_trying_everything(history, specification)
        assert linearizable(history, specification) == expected, history
        verdicts[expected] += 1
    assert min(verdicts) > 30, f"too few of one kind: {verdicts}"


WRONG: dict[str, tuple[Specification, list[Operation]]] = {
    "two holders": (Admission(), [op(1, "write", 0, 1, [1, False]), op(2, "write", 2, 3, [2, False])]),
    "a token twice": (
        Admission(),
        [op(1, "write", 0, 1, [1, False]), op(1, "release", 2, 3, None, 1), op(2, "write", 4, 5, [1, False])],
    ),
    "refused though free": (
        Admission(),
        [op(1, "write", 0, 1, [1, False]), op(1, "release", 2, 3, None, 1), op(2, "write", 4, 5, None)],
    ),
    "a death not told": (
        Admission(),
        [op(1, "write", 0, 1, [1, False]), op(1, "die", 2, math.inf), op(2, "write", 3, 4, [2, False])],
    ),
    "a death invented": (Admission(), [op(1, "write", 0, 1, [1, True])]),
    "reader beside writer": (Admission(), [op(1, "write", 0, 1, [1, False]), op(2, "read", 2, 3, [2, False])]),
    "a permit too many": (
        Admission(2), [op(who, "write", 2 * who, 2 * who + 1, [who, False]) for who in (1, 2, 3)],
    ),
    "a flag unseen": (Flag(), [op(1, "set", 0, 1), op(2, "wait", 2, 3, False)]),
    "computed twice": (OneResult(), [op(1, "run", 0, 1, "a", "a"), op(2, "run", 2, 3, "b", "b")]),
    "an update lost": (Counter(), [op(1, "add", 0, 3, 1, 1), op(2, "add", 1, 4, 1, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_known_faults_are_rejected(fault: str) -> None:
    """Negative controls: the shortest history of each fault is not linearizable."""
    specification, history = WRONG[fault]
    assert not linearizable(history, specification)


def test_what_never_returned_may_have_happened_or_not() -> None:
    """A pending acquire explains a refusal and a later death told; without it both are accepted as well."""
    pending = op(1, "write", 0, math.inf, NOT_KNOWN)
    death = op(1, "die", 1, math.inf)
    for later in (op(2, "write", 2, 3, None), op(2, "write", 2, 3, [2, True]), op(2, "write", 2, 3, [1, False])):
        assert linearizable([pending, death, later], Admission())
    assert not linearizable([op(2, "write", 2, 3, None)], Admission())
