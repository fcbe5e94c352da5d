"""Every kernel-lock primitive between real processes: exclusion, death, looking without taking, deadlines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.processes import Board, collected, fork, kill, wait
from interlock.stores._kernel_lock import DEFAULT, PRIMITIVES, Primitive, acquire
from patience import until


@pytest.fixture(params=sorted(PRIMITIVES))
def primitive(request: pytest.FixtureRequest) -> Primitive:
    return PRIMITIVES[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "file").touch()
    with collected():
        yield str(tmp_path / "file")


def holder(primitive: Primitive, path: str, board: Board) -> int:
    """A process that holds the lock until it is killed; it holds it when this returns."""

    def hold() -> None:
        fd = os.open(path, os.O_RDWR)
        assert primitive.try_lock(fd)
        board[0] = 1
        time.sleep(60)

    board[0] = 0
    pid = fork(hold)
    until(lambda: board[0])
    return pid


def test_the_default_is_one_of_them() -> None:
    """A space without a choice gets a primitive that exists."""
    assert DEFAULT in PRIMITIVES


def test_two_processes_exclude_each_other(primitive: Primitive, path: str) -> None:
    """A counter kept under the lock by four processes loses no step."""
    board, rounds = Board(1), 300

    def count() -> None:
        fd = os.open(path, os.O_RDWR)
        for _ in range(rounds):
            assert acquire(primitive, fd)
            seen = board[0]
            os.sched_yield()
            board[0] = seen + 1
            primitive.unlock(fd)

    for pid in [fork(count) for _ in range(4)]:
        assert wait(pid) == 0
    assert board[0] == 4 * rounds


def test_the_counter_needs_the_lock() -> None:
    """Negative control: the same counter without the lock does lose steps."""
    board, rounds = Board(1), 300

    def count() -> None:
        for _ in range(rounds):
            seen = board[0]
            time.sleep(0)
            os.sched_yield()
            board[0] = seen + 1

    with collected():
        for pid in [fork(count) for _ in range(4)]:
            assert wait(pid) == 0
    assert board[0] < 4 * rounds


def test_a_killed_owner_gives_it_up(primitive: Primitive, path: str) -> None:
    """The kernel frees the lock of a process that was killed."""
    fd, board = os.open(path, os.O_RDWR), Board(1)
    owner = holder(primitive, path, board)
    assert not primitive.try_lock(fd)
    kill(owner)
    assert primitive.try_lock(fd)
    os.close(fd)


def test_looking_takes_nothing(primitive: Primitive, path: str) -> None:
    """`held_by_other` tells held from free, on a descriptor for reading too, and leaves the lock as it was."""
    board = Board(1)
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    assert not primitive.held_by_other(reader)
    owner = holder(primitive, path, board)
    assert primitive.held_by_other(reader)
    assert primitive.held_by_other(reader)
    kill(owner)
    assert not primitive.held_by_other(reader)
    newcomer = holder(primitive, path, board)
    kill(newcomer)
    assert primitive.try_lock(writer)
    os.close(reader)
    os.close(writer)


def test_waiting_keeps_its_deadline(primitive: Primitive, path: str) -> None:
    """A lock that stays held is given up at the deadline and not before; without one, waiting ends when it is free."""
    fd, board = os.open(path, os.O_RDWR), Board(1)
    owner = holder(primitive, path, board)
    started = time.monotonic()
    assert not acquire(primitive, fd, started + 0.05)
    assert time.monotonic() >= started + 0.05
    assert not acquire(primitive, fd, started)
    killer = fork(lambda: os.kill(owner, 9))
    assert acquire(primitive, fd)
    wait(killer)
    wait(owner)
    os.close(fd)


def test_a_stopped_owner_keeps_it(primitive: Primitive, path: str) -> None:
    """SIGSTOP frees nothing: a paused owner is alive."""
    fd, board = os.open(path, os.O_RDWR), Board(1)
    owner = holder(primitive, path, board)
    os.kill(owner, 19)
    assert not acquire(primitive, fd, time.monotonic() + 0.02)
    assert primitive.held_by_other(fd)
    os.kill(owner, 18)
    kill(owner)
    os.close(fd)


@pytest.mark.skipif("ofd" not in PRIMITIVES, reason="this system has no OFD locks")
@pytest.mark.parametrize("name", ["ofd", "flock"])
def test_two_descriptors_of_one_process_exclude_each_other(name: str, path: str) -> None:
    """Locks that belong to the descriptor keep the threads of a process apart as well."""
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    primitive = PRIMITIVES[name]
    assert not primitive.per_process
    assert primitive.try_lock(one)
    assert not primitive.try_lock(two)
    assert primitive.held_by_other(two)
    os.close(one)
    assert primitive.try_lock(two)
    os.close(two)
