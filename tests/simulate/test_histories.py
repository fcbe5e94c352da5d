"""Thousands of histories with faults, each from its seed; and broken twins that must be found out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlock import _script
from interlock._script import Script
from interlock.abc import WAITING, Outcome
from interlock.machines.admission import Acquire, Admission, Held
from interlock.machines.barrier import Arrive, Complete
from interlock.machines.barrier import Barrier as BarrierMachine
from interlock.machines.event import Event as EventMachine
from interlock.machines.event import Set
from interlock.machines.fence import Fence as FenceMachine
from interlock.machines.fence import Join
from interlock.machines.once import Claim
from interlock.machines.once import Once as OnceMachine
from simulate.run import play
from simulate.scenes import SCENES
from simulate.world import Violation, World

SEEDS = 1500  # of every object: 10,500 histories in all
ENOUGH = 400  # seeds after which a broken twin must have been found out


@pytest.mark.parametrize("kind", SCENES)
def test_no_history_breaks_a_promise(kind: str) -> None:
    """Whatever is lost, late, dead or interrupted: safe at every step, and at the end everybody is done and gone."""
    for seed in range(SEEDS):
        play(kind, seed)


def test_one_seed_is_one_history() -> None:
    """The same seed gives the same history, message by message."""
    told: list[list[str]] = [[], []]
    for lines in told:
        play("barrier", 7, lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 10


def test_a_violation_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message ends with a command, and the command of its form runs."""
    monkeypatch.setattr(SCENES["semaphore"], "machine", Generous("semaphore"))
    assert found_out("semaphore", r"more inside[^$]*python -m simulate.run --seed \d+ --object semaphore$")
    command = [sys.executable, "-m", "simulate.run", "--seed", "1", "--object", "semaphore"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert "Acquire: granted" in done.stdout


class Overtaking(Admission):
    """Lets a newcomer stand in front of those who wait."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if isinstance(op, Acquire) and outcome.state == WAITING and after is not record:
            holding = [entry for entry in after.entries if entry.token]
            waiting = [entry for entry in after.entries if not entry.token]
            after = after._replace(entries=(*holding, waiting[-1], *waiting[:-1]))
        return after, outcome


class Generous(Admission):
    """Grants whatever is asked for."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if isinstance(op, Acquire) and outcome.state == WAITING:
            return after, Outcome("granted", Held(after.token + 1, False, 0))
        return after, outcome


class Forgiving(Admission):
    """Does not tell of a death."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if outcome.state == "granted":
            outcome = outcome._replace(value=outcome.value._replace(recovered=False))
        return after, outcome


class Hasty(BarrierMachine):
    """Lets a full generation go without having anybody looked at."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if isinstance(op, Arrive) and isinstance(outcome.then, Complete):
            return super().apply(after, outcome.then)
        return after, outcome


class Deaf(EventMachine):
    """Forgets those who wait when it is set."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        if isinstance(op, Set):
            return record._replace(flag=True), Outcome("set")
        return super().apply(record, op)


class Twice(OnceMachine):
    """Has everybody compute."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if isinstance(op, Claim) and outcome.state == WAITING:
            return after, Outcome("yours", (1, False))
        return after, outcome


class Crowded(FenceMachine):
    """Has everybody write."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        after, outcome = super().apply(record, op)
        if isinstance(op, Join) and outcome.state == WAITING:
            return after, Outcome("yours", (1, False))
        return after, outcome


@pytest.mark.parametrize(
    ("kind", "twin", "law"),
    [
        ("lock", Overtaking("lock"), "overtaken"),
        ("rwlock", Overtaking("lock"), "overtaken"),
        ("lock", Generous("lock"), "a writer is not alone"),
        ("rwlock", Generous("lock"), "alone|beside a writer"),
        ("semaphore", Generous("semaphore"), "more inside than permits"),
        ("lock", Forgiving("lock"), "was not told"),
        ("barrier", Hasty(), "before all had arrived"),
        ("event", Deaf(), "never finished"),
        ("once", Twice(), "two compute at once"),
        ("fence", Crowded(), "two write at once"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_a_broken_machine_is_found_out(kind: str, twin: Any, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine's broken twin breaks a promise in some history, and the promise is named."""
    monkeypatch.setattr(SCENES[kind], "machine", twin)
    assert found_out(kind, law)


def stay(*_: Any, **__: Any) -> Script:
    """A script that does not leave."""
    return None
    yield


def look_away(*_: Any) -> Script:
    """A script that does not look whether anybody lives."""
    return ()
    yield


@pytest.mark.parametrize("kind", ["lock", "rwlock", "semaphore", "once", "event"])
def test_a_script_that_does_not_leave_is_found_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the `Leave` after a time-out or an interrupt, something of the living stays behind or blocks others."""
    monkeypatch.setattr(_script, "leave", stay)
    assert found_out(kind, "left behind|never finished")


@pytest.mark.parametrize("kind", ["lock", "semaphore", "once"])
def test_a_script_that_does_not_look_is_found_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking whether the one ahead lives, somebody waits for the dead for ever."""
    monkeypatch.setattr(_script, "_look", look_away)
    assert found_out(kind, "never finished")


def test_a_barrier_that_does_not_look_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking at the others before completing, a party that died while waiting counts as arrived."""
    monkeypatch.setattr(_script, "_look", look_away)
    assert found_out("barrier", "before all had arrived")


def test_the_ghost_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store whose `Leave` writes nothing when there is nothing to leave, a late `Acquire` stays for ever."""
    monkeypatch.setattr(World, "departures_write", False)
    assert found_out("lock", "left behind|never finished", SEEDS)


def test_a_lost_wake_up_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store's re-poll and the script's reports, a lost wake-up is a wait for ever."""
    monkeypatch.setattr(_script, "PATIENCE_S", 1e9)
    monkeypatch.setattr(World, "repolls", False)
    assert found_out("lock", "never finished")


def found_out(kind: str, law: str, seeds: int = ENOUGH) -> bool:
    """Whether some history ends with the violation of this law."""
    search = re.compile(law).search
    for seed in range(seeds):
        try:
            play(kind, seed)
        except Violation as violation:
            if search(str(violation)):
                return True
    return False
