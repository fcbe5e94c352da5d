"""Histories of real processes on objects in shared memory, with kills in flight, are what the objects allow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import new_scope
from linear.checker import NOT_KNOWN, Operation, Specification, linearizable
from linear.recorder import Actor, Client, record
from linear.specifications import Flag, OneResult
from linear.test_histories import PERMITS, ROUNDS, use_event, use_lock, use_once, use_semaphore

PARTIES = 3
EXCUSED = "refused behind somebody"


class Held(NamedTuple):
    """Who holds under which token, exclusively or not; a token is 0 if nobody was told of it.

    `floor` is the token that later ones are above, `top` the largest of all, `recovered` a death not yet told.
    """

    floor: int = 0
    top: int = 0
    recovered: bool = False
    holds: frozenset[tuple[int, int, bool]] = frozenset()


class Loose:
    """As the machine, with the freedom that the core takes.

    Tokens are not counted one by one: a writer's is larger than all before, a reader's than every earlier writer's, a
    permit's than that of every hold that ended before. Whoever died before it was told of its hold had it or had not.
    And a try is refused while somebody else waits, who is to have it next and has not looked yet (see `excused`).
    """

    def __init__(self, permits: int = 0) -> None:
        self.permits = permits

    def initial(self) -> Held:
        return Held()

    def steps(self, state: Held, operation: Operation) -> Iterable[Held]:
        who, what, argument, result, *_ = operation
        if what == EXCUSED:
            return [state]
        if what == "die":
            return self._die(state, {hold for hold in state.holds if hold[0] == who})
        if what in ("release", "downgrade"):
            return self._let_go(state, {hold for hold in state.holds if hold[:2] == (who, argument)}, what)
        reads = what == "read"
        fits = len(state.holds) < (self.permits or 1) or (reads and all(shared for _, _, shared in state.holds))
        if result is None:
            return [] if fits else [state]
        return self._admit(state, who, reads, result) if fits else []

    def _die(self, state: Held, lost: set[tuple[int, int, bool]]) -> list[Held]:
        after = state._replace(holds=state.holds - lost)
        told = after._replace(recovered=True)
        if all(reads for _, _, reads in lost):
            return [after]
        return [told] if any(token for _, token, _ in lost) else [after, told]

    def _let_go(self, state: Held, mine: set[tuple[int, int, bool]], what: str) -> list[Held]:
        for who, token, reads in mine:
            if what == "downgrade":
                return [] if reads else [state._replace(holds=state.holds - mine | {(who, token, True)})]
            floor = max(state.floor, token) if self.permits else state.floor
            return [state._replace(holds=state.holds - mine, floor=floor)]
        return []

    def _admit(self, state: Held, who: int, reads: bool, result: Any) -> list[Held]:
        if result == NOT_KNOWN:
            return [state._replace(recovered=state.recovered and reads, holds=state.holds | {(who, 0, reads)})]
        token, told = result
        above = state.floor if reads or self.permits else state.top
        if token <= above or token in {other for _, other, _ in state.holds} or told != state.recovered:
            return []
        floor = state.floor if reads or self.permits else token
        holds = state.holds | {(who, token, reads)}
        return [Held(floor, max(state.top, token), told and reads, holds)]


def excused(history: list[Operation]) -> list[Operation]:
    """The history with the refusals marked during which another one's acquire was under way."""
    acquires = [op for op in history if op.what in ("read", "write") and op.result is not None]

    def waited(mine: Operation) -> bool:
        return any(op.called < mine.returned and op.returned > mine.called for op in acquires)

    return [
        op._replace(what=EXCUSED) if op.what == "write" and op.result is None and waited(op) else op for op in history
    ]


class Rounds:
    """A barrier that all parties pass: nobody leaves a generation before everybody has come to it, each once."""

    def initial(self) -> tuple[int, frozenset[tuple[int, int]]]:
        return 0, frozenset()

    def steps(self, state: tuple[int, frozenset[tuple[int, int]]], operation: Operation) -> Iterable[Any]:
        generation, passed = state
        who, what, _, result, *_ = operation
        if what == "die" or result == NOT_KNOWN:
            return [state]
        index, found = result
        if found != generation or who in {name for name, _ in passed} or index in {place for _, place in passed}:
            return []
        passed = passed | {(who, index)}
        return [(generation + 1, frozenset())] if len(passed) == PARTIES else [(generation, passed)]


def use_rwlock(client: Client) -> None:
    """Read, write, and go from writing to reading."""
    lock = client.session.rwlock("object")
    for _ in range(ROUNDS):
        what, side = client.random.choice((("read", lock.read()), ("read", lock.read()), ("write", lock.write())))
        grant = client.does(what, None, side.acquire)
        if what == "write" and client.random.random() < 0.4:
            client.does("downgrade", grant.token, grant.downgrade)
        client.does("release", grant.token, grant.release)


def use_barrier(client: Client) -> None:
    barrier = client.session.barrier("object", PARTIES)
    for _ in range(2 * ROUNDS):
        client.does("pass", None, lambda: list(barrier.wait(20)))


OBJECTS: dict[str, tuple[Actor, Specification]] = {
    "lock": (use_lock, Loose()),
    "rwlock": (use_rwlock, Loose()),
    "semaphore": (use_semaphore, Loose(PERMITS)),
    "event": (use_event, Flag()),
    "once": (use_once, OneResult()),
}


def one(tmp_path: Path, actor: Actor, seed: int, kills: int = 0, processes: int = 4) -> list[Operation]:
    """One history."""
    with contextmanager(new_scope)("shm", tmp_path) as url:
        return record(url, str(tmp_path / f"log-{seed}"), actor, seed=seed, kills=kills, processes=processes)


def histories(tmp_path: Path, kind: str, count: int, kills: int, first_seed: int = 0) -> int:
    """Record and check some histories; how many operations overlapped with another one's."""
    actor, specification = OBJECTS[kind]
    overlaps = 0
    for seed in range(first_seed, first_seed + count):
        history = excused(one(tmp_path, actor, seed, kills))
        assert linearizable(history, specification), f"seed {seed}: see {tmp_path}/log-{seed}"
        overlaps += sum(later.called < earlier.returned for earlier, later in itertools.pairwise(history))
    return overlaps


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_histories_without_deaths(tmp_path: Path, kind: str) -> None:
    """Four processes on one object: every history is linearizable, and the operations did overlap."""
    assert histories(tmp_path, kind, 20, kills=0) > 0


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_histories_with_kills_in_flight(tmp_path: Path, kind: str) -> None:
    """The same while processes are killed and replaced: what was under way happened or did not, nothing between."""
    assert histories(tmp_path, kind, 20, kills=2, first_seed=100) > 20


def test_rounds_of_a_barrier(tmp_path: Path) -> None:
    """Parties that meet again and again: one place in each generation for each, and nobody is a generation ahead."""
    for seed in range(12):
        history = one(tmp_path, use_barrier, seed, processes=PARTIES)
        assert len(history) == PARTIES * 2 * ROUNDS
        assert one_generation_at_a_time(history), f"seed {seed}: see {tmp_path}/log-{seed}"


def one_generation_at_a_time(history: list[Operation]) -> bool:
    """Whether each passage began before all others of its generation ended, and the specification explains the rest.

    The specification lets parties go one after another; that nobody went early is in the intervals.
    """
    passages = sorted(history, key=lambda operation: operation.result[1])
    for _, members in itertools.groupby(passages, key=lambda operation: operation.result[1]):
        group = list(members)
        if max(member.called for member in group) > min(member.returned for member in group):
            return False
    return linearizable(history, Rounds())


def use_two_locks(client: Client) -> None:
    """What a lock would be whose processes had mapped two objects under one name."""
    lock = client.session.lock(f"object-{client.who % 2}")
    for _ in range(ROUNDS):
        grant = client.does("write", None, lock.acquire)
        client.does("release", grant.token, grant.release)


def test_a_broken_twin_is_rejected(tmp_path: Path) -> None:
    """Negative control: a lock that is two is soon found out."""
    assert not all(linearizable(one(tmp_path, use_two_locks, seed), Loose()) for seed in range(10))


def op(who: int, what: str, called: float, returned: float, result: Any = None, argument: Any = None) -> Operation:
    return Operation(who, what, argument, result, called, returned)


WRONG: dict[str, tuple[int, list[Operation]]] = {
    "two writers": (0, [op(1, "write", 0, 1, [7, False]), op(2, "write", 2, 3, [9, False])]),
    "a writer's token that is not larger": (
        0, [op(1, "read", 0, 1, [7, False]), op(1, "release", 2, 3, None, 7), op(2, "write", 4, 5, [5, False])],
    ),
    "a reader's token from before the writer": (
        0, [op(1, "write", 0, 1, [7, False]), op(1, "release", 2, 3, None, 7), op(2, "read", 4, 5, [6, False])],
    ),
    "two readers with one token": (0, [op(1, "read", 0, 1, [7, False]), op(2, "read", 2, 3, [7, False])]),
    "a permit too many": (2, [op(who, "write", 2 * who, 2 * who + 1, [who, False]) for who in (1, 2, 3)]),
    "a permit's token from before": (
        2, [op(1, "write", 0, 1, [7, False]), op(1, "release", 2, 3, None, 7), op(2, "write", 4, 5, [6, False])],
    ),
    "a death not told": (
        0, [op(1, "write", 0, 1, [7, False]), op(1, "die", 2, math.inf), op(2, "write", 3, 4, [9, False])],
    ),
    "a death invented": (0, [op(1, "write", 0, 1, [7, True])]),
    "refused though free": (0, [op(1, "write", 0, 1, None)]),
    "a downgrade of what is not held": (0, [op(1, "downgrade", 0, 1, None, 7)]),
    "a writer beside one who went on reading": (
        0, [op(1, "write", 0, 1, [7, False]), op(1, "downgrade", 2, 3, None, 7), op(2, "write", 4, 5, [9, False])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_known_faults_are_rejected(fault: str) -> None:
    """Negative controls: the freedom of the core does not excuse the shortest history of each fault."""
    permits, history = WRONG[fault]
    assert not linearizable(history, Loose(permits))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_many_more_histories(tmp_path: Path, kind: str) -> None:
    """The same over four hundred histories of each kind."""
    assert histories(tmp_path, kind, 200, kills=0, first_seed=1000) > 100
    assert histories(tmp_path, kind, 200, kills=4, first_seed=2000) > 100
