"""A record survives SIGKILL of its writer at any instant.

Writers are killed at random instants while they take, give back, grow and shrink records. After each kill every record
is read without a lock and taken over. What a writer holds is announced in shared memory, which the kill leaves intact.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from crash.processes import Board, collected, fork, kill
from interlock.abc import Leave, Ticket
from interlock.machines import BY_KIND
from interlock.machines.admission import LOCK, Acquire
from patience import until

READY, PHASE, TOKEN = 0, 1, 2
FREE, TAKING, HOLDING, GIVING = 0, 1, 2, 3
PERMITS = 6
CROWD = 40
LIVES_S = (0.001, 0.003, 0.003, 0.01)  # how long a writer may live at most; on a slow machine, too, some get far


class Writer:
    """What a victim does: one endless round of transactions on records that grow and shrink."""

    def __init__(self, url: str, board: Board, seed: int) -> None:
        self.session = interlock.connect(url)
        self.board = board
        self.random = random.Random(seed)
        self.lock = self.session.lock("lock")
        self.permits = self.session.semaphore("permits", PERMITS)

    def run(self) -> None:
        steps: list[Callable[[], None]] = [self.take_lock]
        if self.random.random() < 0.5:  # the others hold the lock for half of their time, on any machine
            steps = [self.take_lock] * 10 + [self.take_permits, self.crowd, self.compute]
        self.board[READY] = len(self.session.id)
        while True:
            self.random.choice(steps)()

    def take_lock(self) -> None:
        self.board[PHASE] = TAKING
        grant = self.lock.acquire()
        self.board[TOKEN] = grant.token
        self.board[PHASE] = HOLDING
        assert self.lock.locked()
        self.board[PHASE] = GIVING
        grant.release()
        self.board[PHASE] = FREE

    def take_permits(self) -> None:
        grants = [self.permits.acquire() for _ in range(self.random.randint(1, PERMITS))]
        for grant in grants:
            grant.release()

    def crowd(self) -> None:
        """Many tickets come and go, so that the record's lines change in length and place."""
        store, session = self.session.store, self.session.id
        tickets = [Ticket(session, 1_000_000 + serial) for serial in range(self.random.randint(2, CROWD))]
        for ticket in tickets:
            store.transact("crowd", LOCK, Acquire(ticket))
        for ticket in tickets:
            store.transact("crowd", LOCK, Leave(ticket))

    def compute(self) -> None:
        size = self.random.choice((0, 100, 5_000, 20_000))
        once = interlock.Once(self.session, "once")
        assert set(once.run(lambda: "x" * size)) <= {"x"}
        once.forget()


class Witness:
    """Remembers each record's version and token, and takes over what a victim left."""

    def __init__(self, url: str) -> None:
        self.session = interlock.connect(url)
        self.seen: dict[str, tuple[int, int]] = {}
        self.taken = 0
        self.lock = self.session.lock("lock")
        self.permits = self.session.semaphore("permits", PERMITS)

    def look(self) -> dict[str, Any]:
        """Every record, read without a lock: sound, and not older than before."""
        records = {}
        for stored in self.session.store.records():
            assert not isinstance(stored, Exception), stored
            machine = BY_KIND[stored.kind]
            record = records[stored.name] = machine.decode(stored.text)
            now = stored.version, machine.token(record)
            before = self.seen.get(stored.name, (0, 0))
            assert now >= before, f"{stored.name} went back from {before} to {now}"
            assert now[1] >= before[1]
            self.seen[stored.name] = now
        return records

    def take_over(self, board: Board, records: dict[str, Any]) -> bool:
        """The next acquirer gets the lock, and is told of a death if and only if the dead one held it."""
        held = "lock" in records and any(entry.token for entry in records["lock"].entries)
        if board[PHASE] == HOLDING:
            assert held
        if board[PHASE] == FREE:
            assert not held
        grant = self.take(self.lock)
        assert grant.recovered == held
        assert grant.token > board[TOKEN]
        grant.release()
        for permit in [self.take(self.permits) for _ in range(PERMITS)]:
            permit.release()
        self.take(self.session.lock("crowd")).release()
        return held

    def take(self, lock: interlock.Lock) -> interlock.Grant:
        """Trying once is enough where all holders are proved dead; now and then wait for it as well."""
        self.taken += 1
        grant = lock.acquire(timeout=30) if self.taken % 150 == 0 else lock.try_acquire()
        assert grant is not None
        return grant


def kills(url: str, count: int, seed: int) -> int:
    """Kill `count` writers, one after another; how many of them held the lock."""
    chance, board, witness = random.Random(seed), Board(8), Witness(url)
    witness.take_over(board, {})
    recovered = 0
    for number in range(count):
        board[READY] = board[PHASE] = 0
        victim = fork(lambda number=number: Writer(url, board, seed + number).run())
        if chance.random() < 0.9:
            until(lambda: board[READY])
        time.sleep(chance.uniform(0, chance.choice(LIVES_S)))
        kill(victim)
        recovered += witness.take_over(board, witness.look())
    return recovered


@pytest.mark.parametrize("primitive", ["ofd", "flock", "lockf", "claims"])
def test_no_kill_leaves_a_record_unreadable_or_untakable(file_url: str, primitive: str) -> None:
    """After each of many kills every record is whole, never older, and the next comer has the lock and knows."""
    count = 100 if primitive == "ofd" else 50
    with collected():
        recovered = kills(f"{file_url}?primitive={primitive}", count, seed=20)
    assert recovered > 5, "too few kills hit a holder to show anything"


@pytest.mark.slow
@pytest.mark.parametrize("primitive", ["ofd", "claims"])
@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_kills(file_url: str, primitive: str, seed: int) -> None:
    """The same over ten thousand kills."""
    with collected():
        assert kills(f"{file_url}?primitive={primitive}", 2000, seed=10_000 * (seed + 1)) > 0
