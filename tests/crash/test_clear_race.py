"""Clearing beside those who acquire: it takes out the dead, and never a hold that was taken in between."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import interlock
from crash.processes import Board, collected, fork, kill, wait
from interlock import clearing
from patience import until

CLEARS = 1000
INSIDE, TOKENS, HOLDING, STOP = range(4)


@pytest.mark.parametrize("primitive", ["ofd", "claims"])
def test_clears_beside_acquirers(primitive: str, tmp_path: Path) -> None:
    """A thousand clears beside eight who acquire, one of whom is killed every few milliseconds: never two holders."""
    url, board = f"file://{tmp_path}/space?primitive={primitive}", Board(8)

    def acquire() -> None:
        chance = random.Random()
        with interlock.connect(url) as session:
            while not board[STOP]:
                with session.lock("model", timeout=60) as grant:
                    board[INSIDE] += 1
                    assert board[INSIDE] == 1, "two holders"
                    assert grant.token > board[TOKENS], "a token went back"
                    board[TOKENS] = grant.token
                    board[INSIDE] -= 1
                time.sleep(chance.uniform(0, 0.001))

    def die_holding() -> None:
        session = interlock.connect(url)
        session.lock("nobody else's").acquire(timeout=60)  # which those who wait for the other one do not evict
        board[HOLDING] = 1
        session.lock("model").acquire(timeout=60)
        time.sleep(60)

    def strike(victim: int) -> None:
        until(lambda: board[HOLDING])
        board[HOLDING] = 0
        kill(victim)

    with collected():
        acquirers = [fork(acquire) for _ in range(7)]
        victim, store = fork(die_holding), interlock.connect(url).store
        done: set[str] = set()
        for number in range(CLEARS):
            if number % 50 == 0:
                strike(victim)
                victim = fork(die_holding)
            done |= {step.action for step in clearing.plan(store) if clearing.perform(store, step)}
        kill(victim)
        board[STOP] = 1
        assert [wait(pid) for pid in acquirers] == [0] * 7
    assert "evict" in done, "nobody was found dead, so this shows nothing"
    assert board[TOKENS] > 100
