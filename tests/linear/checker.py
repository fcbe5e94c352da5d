"""Is a history linearizable? Wing and Gong's search with Lowe's memo.

A history is linearizable if every operation can be given one instant between its call and its return such that the
operations, taken one after another in the order of these instants, are what the sequential specification allows. An
operation whose process died has no return: it may have happened at any time after its call, or not at all.

The search picks, among the operations that nobody returned before, one that the specification accepts as the next, and
goes back when it gets stuck. What it has done so far matters only as the set of operations and the state they led to,
so no such pair is tried twice. Sources: Wing and Gong 1993; Lowe, "Testing for linearizability", 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

NOT_KNOWN = "not known"  # the result of an operation that never returned


class Operation(NamedTuple):
    """One operation of one process: its interval is (`called`, `returned`), infinite if it never returned."""

    who: int
    what: str
    argument: Any
    result: Any
    called: float
    returned: float

    @property
    def optional(self) -> bool:
        return self.returned == math.inf


class Specification(Protocol):
    """An object for one process at a time. States are hashable values."""

    def initial(self) -> Hashable:
        """The state before the first operation."""

    def steps(self, state: Any, operation: Operation) -> Iterable[Hashable]:
        """The states the operation may lead to if it happens in `state` with its result; none if it cannot."""


def linearizable(history: Sequence[Operation], specification: Specification) -> bool:
    """Whether the specification explains the history."""
    operations = sorted(history, key=lambda operation: operation.called)
    needed = sum(1 << index for index, operation in enumerate(operations) if not operation.optional)
    start = (0, specification.initial())
    seen, path = {start}, [_next(operations, start, specification)]
    if not needed:
        return True
    while path:
        found = next(path[-1], None)
        if found is None:
            path.pop()
        elif found not in seen:
            if found[0] & needed == needed:
                return True
            seen.add(found)
            path.append(_next(operations, found, specification))
    return False


def _next(
    operations: Sequence[Operation], at: tuple[int, Hashable], specification: Specification
) -> Iterator[tuple[int, Hashable]]:
    """What may come next: an operation called before any other that is left has returned."""
    done, state = at
    first_return, candidates = math.inf, []
    for index, operation in enumerate(operations):
        if operation.called > first_return:
            break
        if not done >> index & 1:
            candidates.append(index)
            first_return = min(first_return, operation.returned)
    for index in sorted(candidates, key=lambda index: operations[index].returned):
        if operations[index].called <= first_return:
            for after in specification.steps(state, operations[index]):
                yield done | 1 << index, after


def linearizable_by_trying_everything(history: Sequence[Operation], specification: Specification) -> bool:
    """The definition itself, for histories of a few operations: every choice, every order."""
    needed = [operation for operation in history if not operation.optional]
    pending = [operation for operation in history if operation.optional]
    for count in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, count):
            for order in itertools.permutations(needed + list(chosen)):
                in_time = all(later.returned >= earlier.called for earlier, later in itertools.combinations(order, 2))
                if in_time and _runs(order, specification):
                    return True
    return False


def _runs(order: Sequence[Operation], specification: Specification) -> bool:
    states = {specification.initial()}
    for operation in order:
        states = {after for state in states for after in specification.steps(state, operation)}
    return bool(states)
