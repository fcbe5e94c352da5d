"""Histories of real processes on objects in shared memory, with kills in flight, are what the objects allow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import new_scope
from linear.checker import NOT_KNOWN, Operation, Specification, linearizable
from linear.recorder import Actor, Client, record
from linear.specifications import Admission, Flag, Holding, OneResult
from linear.test_histories import PERMITS, ROUNDS, use_event, use_lock, use_once, use_semaphore

PARTIES = 3


class Loose(Admission):
    """As the machine, with the freedom that the core takes.

    Tokens are not counted one by one: a writer's is larger than all before, a reader's than every earlier writer's, a
    permit's than that of every hold that ended before. Whoever died before it was told of its hold had it or had not.
    """

    def steps(self, state: Holding, operation: Operation) -> Iterable[Holding]:
        who, what, argument, *_ = operation
        if what == "downgrade":
            hold, weaker = (who, argument, False), (who, argument, True)
            return [state._replace(holds=state.holds - {hold} | {weaker})] if hold in state.holds else []
        after = list(super().steps(state, operation))
        if what == "release" and self.permits and after:
            return [after[0]._replace(token=max(state.token, argument))]
        if what == "die" and after[0].recovered and all(token == 0 for name, token, _ in state.holds if name == who):
            return [*after, after[0]._replace(recovered=state.recovered)]
        return after

    def _admit(self, state: Holding, who: int, shared: bool, result: Any) -> list[Holding]:
        holds = {token for _, token, _ in state.holds}
        known = result != NOT_KNOWN
        token, told = result if known else (0, state.recovered)
        if known and (token <= state.token or token in holds or told != state.recovered):
            return []
        reads = shared and not self.permits
        floor = state.token if shared else max(token, state.token)
        return [Holding(floor, told and reads, state.holds | {(who, token, shared)})]


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
        history = one(tmp_path, actor, seed, kills)
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_many_more_histories(tmp_path: Path, kind: str) -> None:
    """The same over four hundred histories of each kind."""
    assert histories(tmp_path, kind, 200, kills=0, first_seed=1000) > 100
    assert histories(tmp_path, kind, 200, kills=4, first_seed=2000) > 100
