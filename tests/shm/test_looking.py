"""What people see of a scope of shared memory, and what they can clear and break there, from the command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import interlock
from cli.command import Command
from crash.processes import collected, fork, kill
from patience import until
from shm.conftest import Connect, folder, place


@pytest.fixture
def command(url: str) -> Iterator[Command]:
    """The command line in the scope."""
    command = Command("file:///nowhere")
    yield command
    command.end()


def told(command: Command, url: str, *args: str) -> Any:
    """What a command says as JSON."""
    done = command("--url", url, *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(url: str, name: str, kind: str = "lock") -> int:
    """A process that holds something by the fast way; its pid."""
    reader, writer = os.pipe()

    def hold() -> None:
        session = interlock.connect(url)
        side = session.semaphore(name, 2) if kind == "semaphore" else session.lock(name)
        side.acquire().release()
        side.acquire()
        os.write(writer, b".")
        signal.pause()

    pid = fork(hold)
    assert os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def wait_for(url: str, name: str) -> int:
    return fork(lambda: interlock.connect(url).lock(name).acquire())


def test_holders_and_waiters_are_shown(command: Command, url: str, connect: Connect) -> None:
    """By pid, in their order, held by the fast way or the slow one, and looking takes nothing."""
    with collected():
        holder, other = held(url, "a"), held(url, "b", "semaphore")
        waiters = []
        for count in (1, 2):
            waiters.append(wait_for(url, "a"))
            until(lambda count=count: len(connect().lock("a").waiters()) == count)
        listed = {status["name"]: status for status in told(command, url, "ls")}
        assert {name: status["kind"] for name, status in listed.items()} == {"a": "lock", "b": "semaphore"}
        assert [part["holder"]["pid"] for part in listed["b"]["holders"]] == [other]
        for status in (listed["a"], told(command, url, "show", "a")):
            assert status["state"] == "held"
            assert [part["holder"]["pid"] for part in status["holders"]] == [holder]
            assert [part["holder"]["pid"] for part in status["waiters"]] == waiters


def test_looking_makes_nothing(command: Command, url: str) -> None:
    """A scope that nobody has used is empty, and stays away."""
    assert told(command, url, "ls") == []
    assert told(command, url, "show", "a")["state"] == "free"
    assert not folder(url).exists()


def test_looking_goes_on_while_a_process_is_stopped_amid_its_work(command: Command, url: str, connect: Connect) -> None:
    """Whoever is stopped with the scope's own lock holds up nobody who looks."""
    store = connect().store
    with connect().lock("a"), store._opened().locked():  # type: ignore[attr-defined]
        assert [status["name"] for status in told(command, url, "ls")] == ["a"]


def test_the_dead_are_told_and_cleared(command: Command, url: str, connect: Connect) -> None:
    """What a killed process held is stale; `clear` evicts it, keeps what lives, and removes what nobody uses."""
    session = connect()
    session.lock("idle").acquire().release()
    with collected(), session.lock("kept"):
        kill(held(url, "a"))
        assert told(command, url, "show", "a")["state"] == "stale"
        done = command("--url", url, "clear", "--apply")
        assert done.returncode == 0, done.stderr
        assert told(command, url, "show", "a")["state"] == "free"
        assert not place(url, "idle").exists()
        assert session.lock("kept").held
        with session.lock("a", timeout=30) as grant:
            assert grant.recovered
        with session.lock("idle"):
            pass


def test_what_a_living_process_holds_can_be_broken(command: Command, url: str, connect: Connect) -> None:
    """`break` takes it away: the next one is told, and the old holder when it gives back; it can go on afterwards."""
    session, other = connect(), connect()
    lock = session.lock("a")
    lock.acquire().release()
    lock.acquire()
    done = command("--url", url, "break", "a", "--reason", "a test")
    assert done.returncode == 0, done.stderr
    with other.lock("a", timeout=30) as grant:
        assert grant.recovered
        with pytest.raises(interlock.SessionLost):
            lock.release()
        assert lock.try_acquire() is None
    with lock:
        assert other.lock("a").try_acquire() is None


def test_who_waits_can_be_broken_off(command: Command, url: str, connect: Connect) -> None:
    """`break` evicts those who wait as well; they stand in the row again, and are served."""
    with collected():
        grant = connect().lock("a").acquire()
        waiter = wait_for(url, "a")
        until(connect().lock("a").waiters)
        assert command("--url", url, "break", "a", "--reason", "a test").returncode == 0
        until(lambda: connect().lock("a").locked())
        with pytest.raises(interlock.SessionLost):
            grant.release()
        kill(waiter)


def test_damage_is_listed_and_set_aside(command: Command, url: str, connect: Connect) -> None:
    """A damaged object is told by `ls` and `show`, and `break` moves it out of the way."""
    with connect().lock("a"):
        pass
    damaged = place(url, "a").with_name("new")
    damaged.write_bytes(b"garbage")
    damaged.replace(place(url, "a"))  # who has the old one mapped keeps it
    for look in (("ls",), ("show", "a")):
        done = command("--url", url, *look)
        assert done.returncode == 2
        assert "damaged" in done.stdout
    assert "set aside" in command("--url", url, "break", "a", "--reason", "a test").stdout
    assert told(command, url, "show", "a")["state"] == "free"
