"""Histories of real processes on the file store, with kills in flight, are what the sequential objects allow."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.stores._record import RecordFile
from linear.checker import Operation, Specification, linearizable
from linear.recorder import Actor, Client, record
from linear.specifications import Admission, Counter, Flag, OneResult

ROUNDS = 12
PERMITS = 2


def use_lock(client: Client, patience_s: float | None = None) -> None:
    lock = client.session.lock("object")
    take = functools.partial(lock.acquire, patience_s)
    for _ in range(ROUNDS):
        act = client.random.choice((take, take, lock.try_acquire))
        grant = client.does("write", None, act)
        if grant is not None:
            client.does("release", grant.token, grant.release)


def use_rwlock(client: Client) -> None:
    lock = client.session.rwlock("object")
    for _ in range(ROUNDS):
        what, side = client.random.choice((("read", lock.read()), ("read", lock.read()), ("write", lock.write())))
        grant = client.does(what, None, side.acquire)
        time.sleep(0)
        client.does("release", grant.token, grant.release)


def use_semaphore(client: Client) -> None:
    permits = client.session.semaphore("object", PERMITS)
    for _ in range(ROUNDS):
        act = client.random.choice((permits.acquire, permits.acquire, permits.try_acquire))
        grant = client.does("write", None, act)
        if grant is not None:
            time.sleep(0)
            client.does("release", grant.token, grant.release)


def use_event(client: Client) -> None:
    event = client.session.event("object")
    acts: list[tuple[str, Callable[[], Any]]] = [
        ("set", event.set),
        ("clear", event.clear),
        ("wait", event.is_set),
        ("wait", lambda: event.wait(0)),
        ("wait", lambda: event.wait(0.002)),
    ]
    for _ in range(ROUNDS):
        what, act = client.random.choice(acts)
        client.does(what, None, act)


def use_once(client: Client) -> None:
    once = interlock.Once(client.session, "object")
    for number in range(ROUNDS):
        mine = f"{client.who}-{number}"
        client.does("run", mine, lambda mine=mine: once.run(lambda: mine))
        if client.random.random() < 0.4:
            client.does("forget", None, once.forget)


def use_counter(client: Client) -> None:
    """A number in a `JsonFile`: read as it is, or changed by `update`."""
    path = Path(client.session.store.path).with_suffix(".json")  # type: ignore[attr-defined]
    document = interlock.files.JsonFile(path, timeout=20, sync=False)
    for _ in range(ROUNDS):
        step = client.random.choice((0, 1, 2))
        if step:
            client.does("add", step, lambda step=step: document.update(lambda number: number + step, default=0))
        else:
            client.does("add", 0, lambda: document.read(default=0))


OBJECTS: dict[str, tuple[Actor, Specification]] = {
    "lock": (use_lock, Admission()),
    "rwlock": (use_rwlock, Admission()),
    "semaphore": (use_semaphore, Admission(PERMITS)),
    "event": (use_event, Flag()),
    "once": (use_once, OneResult()),
    "counter": (use_counter, Counter()),
}


def histories(tmp_path: Path, kind: str, count: int, kills: int, first_seed: int = 0, way: str = "ofd") -> int:
    """Record and check some histories; how many operations overlapped with another one's."""
    actor, specification = OBJECTS[kind]
    overlaps = 0
    for seed in range(first_seed, first_seed + count):
        url = f"file://{tmp_path}/space-{seed}?primitive={way}"
        history = record(url, str(tmp_path / f"log-{seed}"), actor, seed=seed, kills=kills)
        assert linearizable(history, specification), f"seed {seed}: see {tmp_path}/log-{seed}"
        overlaps += sum(later.called < earlier.returned for earlier, later in itertools.pairwise(history))
    return overlaps


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_histories_without_deaths(tmp_path: Path, kind: str) -> None:
    """Four processes on one object: every history is linearizable, and the operations did overlap."""
    assert histories(tmp_path, kind, 12, kills=0) > 0


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_histories_with_kills_in_flight(tmp_path: Path, kind: str) -> None:
    """The same while processes are killed and replaced: what was under way happened or did not, nothing between."""
    assert histories(tmp_path, kind, 8, kills=2, first_seed=100) > 12


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_histories_by_claims(tmp_path: Path, kind: str) -> None:
    """Both, more briefly, where versions are claimed by links instead of written under a kernel lock."""
    assert histories(tmp_path, kind, 4, kills=0, first_seed=200, way="claims") > 0
    assert histories(tmp_path, kind, 4, kills=2, first_seed=300, way="claims") > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ofd", "claims"])
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_many_more_histories(tmp_path: Path, kind: str, way: str) -> None:
    """The same over two hundred histories."""
    assert histories(tmp_path, kind, 100, kills=0, first_seed=1000, way=way) > 100
    assert histories(tmp_path, kind, 100, kills=4, first_seed=2000, way=way) > 100


def use_broken_lock(client: Client) -> None:
    """The lock on a store whose kernel lock excludes nobody, and which lets others act between its read and its write.

    A client that is told of an error stops, as does one whose ticket is lost: only what was answered is judged.
    """
    client.session.store._opened()  # type: ignore[attr-defined]
    records = client.session.store._records  # type: ignore[attr-defined]
    assert callable(records._try_lock)
    records._try_lock = lambda fd: True
    read = RecordFile.read

    def slow_read(file: RecordFile) -> bytes | None:
        line = read(file)
        time.sleep(0.0002)
        return line

    RecordFile.read = slow_read  # type: ignore[method-assign]
    with suppress(interlock.InterlockError):
        use_lock(client, patience_s=2.0)


def test_a_broken_twin_is_rejected(tmp_path: Path) -> None:
    """Negative control: with the kernel lock taken out, a history of the lock is soon not linearizable."""

    def rejected(seed: int) -> bool:
        url, log = f"file://{tmp_path}/space-{seed}", str(tmp_path / f"log-{seed}")
        return not linearizable(record(url, log, use_broken_lock, seed=seed), Admission())

    assert any(rejected(seed) for seed in range(40))


@pytest.mark.parametrize("kind", ["lock", "rwlock", "semaphore", "once", "counter"])
def test_a_falsified_history_is_rejected(tmp_path: Path, kind: str) -> None:
    """Negative control: a sound history in which a single result is replaced by an earlier one's is rejected."""
    actor, specification = OBJECTS[kind]
    history = record(f"file://{tmp_path}/space", str(tmp_path / "log"), actor, seed=1)
    assert linearizable(history, specification)
    telling = [index for index, operation in enumerate(history) if operation.result]
    first, last = telling[0], telling[-1]
    assert history[first].result != history[last].result
    falsified: list[Operation] = list(history)
    falsified[last] = falsified[last]._replace(result=history[first].result)
    assert not linearizable(falsified, specification)
