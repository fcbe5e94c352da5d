"""Soak: processes share one object while a tormentor kills, replaces, stops and continues them at random.

Who is inside is logged with `O_APPEND`, apart from the library: ``in`` after a grant, ``out`` before its release, and
``dying`` before a kill. Read in order, the log must never show more inside than the object allows. Progress
is shown by the survivors, which finish a last round when the torment ends.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import interlock
from crash.processes import Board, Log, collected, fork, wait

PROCESSES = 6
PERMITS = 2
PARTIES = 3
STOP = 0
PATIENCE_S = 30.0
Worker = Callable[["Party"], None]


class Party:
    """One worker process: its session and its line to the log."""

    def __init__(self, url: str, log: Log, board: Board, who: int) -> None:
        self.session = interlock.connect(url)
        self.url, self.log, self.board, self.who = url, log, board, who
        self.random = random.Random(who)

    def inside(self, role: str, grant: interlock.Grant) -> None:
        """Be inside for a moment."""
        self.log.add("in", self.who, role, grant.token, time.monotonic())
        time.sleep(self.random.choice((0, 0, 0.0005, 0.002)))
        self.log.add("out", self.who, role, grant.token, time.monotonic())

    def goes_on(self) -> bool:
        return not self.board[STOP]


def lock(party: Party) -> None:
    shared = party.session.lock("object", timeout=PATIENCE_S)
    while party.goes_on():
        with shared as grant:
            party.inside("write", grant)


def rwlock(party: Party) -> None:
    shared = party.session.rwlock("object", timeout=PATIENCE_S)
    while party.goes_on():
        role, side = party.random.choice((("read", shared.read()), ("read", shared.read()), ("write", shared.write())))
        with side as grant:
            party.inside(role, grant)


def semaphore(party: Party) -> None:
    shared = party.session.semaphore("object", PERMITS, timeout=PATIENCE_S)
    while party.goes_on():
        with shared as grant:
            party.inside("permit", grant)


def once(party: Party) -> None:
    """Each key is computed by one process at a time, and everybody reads what was published."""
    for number in range(10**9):
        if not party.goes_on():
            return
        key = f"key-{number % 7}"
        shared = interlock.Once(party.session, key, timeout=PATIENCE_S)

        def compute(key: str = key) -> str:
            party.log.add("in", party.who, key, 0, time.monotonic())
            time.sleep(party.random.choice((0, 0.001)))
            party.log.add("out", party.who, key, 0, time.monotonic())
            return key

        assert shared.run(compute) == key
        if party.random.random() < 0.2:
            shared.forget()


def json_file(party: Party) -> None:
    """Every update that returned is in the document at the end, and no more than were begun."""
    document = interlock.files.JsonFile(
        Path(f"{party.url.removeprefix('file://')}.json"), timeout=PATIENCE_S, sync=False
    )
    me = str(party.who)
    while party.goes_on():
        party.log.add("begun", party.who)
        document.update(lambda counts: {**counts, me: counts.get(me, 0) + 1}, default={})
        party.log.add("done", party.who)


def barrier(party: Party) -> None:
    """Pass or be told: a broken barrier is reset by whoever hears of it, and nobody waits for ever."""
    shared = party.session.barrier("object", PARTIES)
    while party.goes_on():
        try:
            arrival = shared.wait(PATIENCE_S)
            party.log.add("passed", party.who, arrival.generation, arrival.index)
        except interlock.BrokenBarrier as broken:
            party.log.add("broken", party.who, broken.reason)
            shared.reset()
    shared.abort("the end")


class Torment(NamedTuple):
    """How often processes were killed and stopped."""

    kills: int
    stops: int


def torment(worker: Worker, url: str, log: Log, *, strikes: int, seed: int, processes: int = PROCESSES) -> Torment:
    """Run workers, strike so many times, each time a kill or a stop at random, then let the survivors finish."""
    board, chance, kills, stops, who = Board(1), random.Random(seed), 0, 0, 0

    def start() -> tuple[int, int]:
        nonlocal who
        who += 1
        return fork(lambda who=who: worker(Party(url, log, board, who))), who

    with collected():
        running = [start() for _ in range(processes)]
        for _ in range(strikes):
            time.sleep(chance.uniform(0.01, 0.06))
            place = chance.randrange(len(running))
            pid, victim = running[place]
            if chance.random() < 0.6:
                log.add("dying", victim, time.monotonic())
                os.kill(pid, signal.SIGKILL)
                assert wait(pid) == -signal.SIGKILL, f"worker {victim} had failed before it was killed"
                running[place] = start()
                kills += 1
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(chance.uniform(0, 0.03))
                os.kill(pid, signal.SIGCONT)
                stops += 1
        board[STOP] = 1
        for pid, number in running:
            assert wait(pid, 2 * PATIENCE_S) == 0, f"worker {number} failed"
    return Torment(kills, stops)


def overlaps(entries: list[Any], allowed: Callable[[Counter[str]], bool]) -> list[Any]:
    """The entries at which more were inside than is allowed. A process is out of it from its ``dying`` on."""
    inside: dict[int, str] = {}
    gone: set[int] = set()
    wrong = []
    for kind, who, *rest in entries:
        if kind == "dying":
            gone.add(who)
            inside.pop(who, None)
        elif kind == "out":
            inside.pop(who, None)
        elif kind == "in" and who not in gone:
            inside[who] = rest[0]
            if not allowed(Counter(inside.values())):
                wrong.append([kind, who, *rest])
    return wrong


def recovery_times(entries: list[Any]) -> list[float]:
    """For each process that died inside, the seconds from its death to the next entry of anybody."""
    times, died = [], None
    inside: set[int] = set()
    for kind, who, *rest in entries:
        if kind == "in":
            inside.add(who)
            if died is not None:
                times.append(rest[-1] - died)
                died = None
        elif kind == "dying" and who in inside:
            died = rest[-1]
        elif kind == "out":
            inside.discard(who)
    return times


def one_writer_or_readers(inside: Counter[str]) -> bool:
    return inside["write"] == 0 or (inside["write"] == 1 and inside["read"] == 0)


def one_each(inside: Counter[str]) -> bool:
    return max(inside.values()) == 1


RULES: dict[str, tuple[Worker, Callable[[Counter[str]], bool]]] = {
    "lock": (lock, one_writer_or_readers),
    "rwlock": (rwlock, one_writer_or_readers),
    "semaphore": (semaphore, lambda inside: inside["permit"] <= PERMITS),
    "once": (once, one_each),
}


def space(tmp_path: Path, way: str = "ofd") -> str:
    """The URL of a space with one way of locking."""
    return f"file://{tmp_path}/space?primitive={way}"


def soak(tmp_path: Path, kind: str, strikes: int, seed: int, url: str = "") -> Torment:
    """Torment one kind of object, in a space of files unless a URL is given, and judge the log."""
    worker, allowed = RULES[kind]
    log = Log(str(tmp_path / "log"))
    done = torment(worker, url or space(tmp_path), log, strikes=strikes, seed=seed)
    entries = log.entries()
    log.close()
    assert overlaps(entries, allowed) == []
    assert sum(entry[0] == "in" for entry in entries) > done.kills
    if kind != "rwlock":  # readers inside hide how long a writer's death took
        assert max(recovery_times(entries), default=0) < 5, "a dead holder was found out too late"
    return done


@pytest.mark.parametrize("kind", sorted(RULES))
def test_never_more_inside_than_allowed(tmp_path: Path, kind: str) -> None:
    """Kills, stops and replacements, some dozens: no overlap, no hang, everybody finishes."""
    done = soak(tmp_path, kind, 45, seed=3)
    assert done.kills > 10
    assert done.stops > 3


@pytest.mark.parametrize("kind", sorted(RULES))
def test_never_more_inside_than_allowed_by_claims(tmp_path: Path, kind: str) -> None:
    """The same, more briefly, where versions are claimed by links instead of written under a kernel lock."""
    done = soak(tmp_path, kind, 20, seed=6, url=space(tmp_path, "claims"))
    assert done.kills > 4
    assert done.stops > 1


def judge_json(tmp_path: Path, strikes: int, seed: int) -> Torment:
    log = Log(str(tmp_path / "log"))
    done = torment(json_file, f"file://{tmp_path}/space", log, strikes=strikes, seed=seed)
    entries = log.entries()
    log.close()
    begun = Counter(str(entry[1]) for entry in entries if entry[0] == "begun")
    finished = Counter(str(entry[1]) for entry in entries if entry[0] == "done")
    counts = interlock.files.JsonFile(tmp_path / "space.json").read()
    for who, number in begun.items():
        assert finished[who] <= counts.get(who, 0) <= number, f"worker {who}"
    assert set(counts) <= set(begun)
    return done


def test_no_update_of_a_json_file_is_lost_or_doubled(tmp_path: Path) -> None:
    """What was written stays written, once, whoever is killed in the middle of an update."""
    assert judge_json(tmp_path, 45, seed=4).kills > 10


def judge_barrier(tmp_path: Path, strikes: int, seed: int, url: str = "") -> Torment:
    """Torment a barrier, in a space of files unless a URL is given, and judge the log."""
    log = Log(str(tmp_path / "log"))
    done = torment(barrier, url or space(tmp_path), log, strikes=strikes, seed=seed, processes=PARTIES)
    entries = log.entries()
    log.close()
    passed = Counter((entry[2], entry[3]) for entry in entries if entry[0] == "passed")
    reasons = [entry[2] for entry in entries if entry[0] == "broken"]
    assert not [reason for reason in reasons if "timed out" in reason], "a death was not told in time"
    assert passed, "nobody ever passed"
    assert max(passed.values()) == 1, "two parties took one place in a generation"
    assert {index for _, index in passed} == set(range(PARTIES))
    return done


@pytest.mark.parametrize(("way", "strikes"), [("ofd", 60), ("claims", 24)])
def test_a_barrier_passes_or_tells(tmp_path: Path, way: str, strikes: int) -> None:
    """Parties that are killed and replaced: the others pass or are told, never wait for ever, never share a place."""
    assert judge_barrier(tmp_path, strikes, seed=5, url=space(tmp_path, way)).kills > strikes / 4


def test_the_judge_sees_an_overlap() -> None:
    """Negative control: two inside, a writer beside a reader, a permit too many are found; a dead one inside is not."""
    two = [["in", 1, "write", 1, 0.0], ["in", 2, "write", 2, 0.1], ["out", 1, "write", 1, 0.2]]
    assert overlaps(two, one_writer_or_readers)
    assert overlaps([["in", 1, "read", 1, 0.0], ["in", 2, "write", 2, 0.1]], one_writer_or_readers)
    assert not overlaps([["in", 1, "read", 1, 0.0], ["in", 2, "read", 2, 0.1]], one_writer_or_readers)
    assert overlaps([["in", who, "permit", who, 0.0] for who in (1, 2, 3)], RULES["semaphore"][1])
    dead = [["in", 1, "write", 1, 0.0], ["dying", 1, 0.2], ["in", 2, "write", 2, 0.3]]
    assert not overlaps(dead, one_writer_or_readers)
    assert overlaps([dead[0], dead[2], dead[1]], one_writer_or_readers)
    assert recovery_times(dead) == [pytest.approx(0.1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [*sorted(RULES), "json", "barrier"])
def test_six_thousand_kills(tmp_path: Path, kind: str, seed: int) -> None:
    """The same for longer: all kinds and seeds together kill well over six thousand times."""
    judges = {"json": judge_json, "barrier": judge_barrier}
    done = judges[kind](tmp_path, 250, seed) if kind in judges else soak(tmp_path, kind, 250, seed)
    assert done.kills > 125


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", sorted(RULES))
def test_a_thousand_kills_by_claims(tmp_path: Path, kind: str, seed: int) -> None:
    """The same for longer with claims."""
    assert soak(tmp_path, kind, 200, seed, space(tmp_path, "claims")).kills > 90
