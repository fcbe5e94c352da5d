"""`interlock ls`, `show` and `check`: what they tell, and that they take nothing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import interlock
from cli.command import Command, let_go, tree
from interlock import inspection
from interlock.machines.barrier import BARRIER, Abort
from interlock.stores._space import file_name
from patience import until

STATUS = {"name", "kind", "state", "holders", "waiters", "detail", "done", "damage"}
PART = {"session", "state", "status", "proof", "since", "token", "mode", "who", "holder"}


def listed(command: Command, *options: str) -> dict[str, dict[str, Any]]:
    """``interlock ls --json`` by name."""
    found = command("ls", "--json", *options)
    assert found.returncode == 0, found.stderr
    return {status["name"]: status for status in json.loads(found.stdout)}


def test_json_has_the_same_keys_everywhere(command: Command) -> None:
    """`ls`, `show` and `check` give one shape for held, free and unknown names, so that a program needs one reader."""
    holder = command.hold("job", "--note", "mine")
    statuses = [*listed(command, "--all").values()]
    for name in ("job", "never used"):
        for verb in ("show", "check"):
            statuses.append(json.loads(command(verb, name, "--json").stdout))
    assert all(set(status) == STATUS for status in statuses)
    (part,) = statuses[0]["holders"]
    assert set(part) == PART
    assert (part["state"], part["status"]) == ("alive", "ACTIVE")
    assert (part["holder"]["pid"], part["holder"]["note"]) == (holder.pid, "mine")
    assert let_go(holder)[0] == 0


def test_check_tells_by_its_exit_code(command: Command, session: interlock.Session, tmp_path: Path) -> None:
    """0 is free, 1 is held, 2 is that it cannot be told; a scope nobody has used is free and stays unmade."""
    assert command("check", "job").returncode == 0
    assert not (tmp_path / "space").exists()
    with session.lock("job"):
        held = command("check", "job")
    assert (held.returncode, command("check", "job").returncode) == (1, 0)
    assert f"pid {os.getpid()}" in held.stdout
    (tmp_path / "file").write_text("")
    wrong = command("check", "job", "--url", str(tmp_path / "file"))
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_the_scope_may_be_named_before_or_after(command: Command, session: interlock.Session, file_url: str) -> None:
    """`--url` counts on either side of the command, and the nearer one wins."""
    command.environment["INTERLOCK_URL"] = "file:///nonexistent/scope"
    with session.lock("job"):
        assert command("check", "job").returncode == 0
        assert command("--url", file_url, "check", "job").returncode == 1
        assert command("check", "job", "--url", file_url).returncode == 1
        assert command("--url", "file:///nonexistent", "check", "job", "--url", file_url).returncode == 1


def test_every_kind_is_told(command: Command, session: interlock.Session, file_url: str) -> None:
    """Each kind of object shows its own state; names out of use and other prefixes are left out unless asked for."""
    session.lock("a/free").acquire()
    session.lock("a/free").release()
    session.lock("a/lock").acquire()
    session.rwlock("a/rw").read().acquire()
    session.semaphore("a/sem", 3).acquire()
    session.event("a/event").set()
    session.once("a/once", lambda: 1)
    session.store.transact("a/broken", BARRIER, Abort("enough"))
    arrived = interlock.connect(file_url)
    barrier = threading.Thread(target=lambda: arrived.barrier("a/barrier", 2).wait(), daemon=True)
    barrier.start()
    until(lambda: session.barrier("a/barrier", 2).waiting)
    with session.fence("a/fence") as fence:
        fence.guard()
        found = listed(command, "--all", "a/")
    states = {name.removeprefix("a/"): (status["kind"], status["state"]) for name, status in found.items()}
    assert states == {
        "free": ("lock", "free"),
        "lock": ("lock", "held"),
        "rw": ("lock", "held"),
        "sem": ("semaphore", "held"),
        "event": ("event", "set"),
        "once": ("once", "done"),
        "broken": ("barrier", "broken"),
        "barrier": ("barrier", "waiting"),
        "fence": ("fence", "held"),
    }
    used = {"a/lock", "a/rw", "a/sem", "a/broken", "a/barrier"}
    assert set(listed(command)) == used
    assert listed(command, "b") == {}
    table = command("ls").stdout
    assert {line.split()[0] for line in table.splitlines()[1:]} == used
    assert "1/3" in table
    session.barrier("a/barrier", 2).wait()
    barrier.join()
    arrived.close()


def test_the_queue_is_told_in_order(command: Command, session: interlock.Session) -> None:
    """`show` lists who waits in the order in which they are served, with a proof of life for each."""
    with session.lock("job"):
        for note in ("first", "second"):
            command.start("run", "job", "--note", note, "--", "true")
            until(lambda note=note: any(w.note == note for w in session.lock("job").waiters()))
        text = command("show", "job").stdout
        waiters = json.loads(command("show", "job", "--json").stdout)["waiters"]
    assert [waiter["holder"]["note"] for waiter in waiters] == ["first", "second"]
    assert text.index(f"pid {os.getpid()}") < text.index("note: first") < text.index("note: second")
    assert text.count("ACTIVE:") == 3


def test_the_dead_are_marked(command: Command) -> None:
    """A hold whose process was killed is shown as stale with the proof, and does not count as held."""
    holder = command.hold("job")
    holder.kill()
    holder.wait()
    until(lambda: command("check", "job").returncode == 0)
    status = listed(command)["job"]
    assert (status["state"], status["holders"][0]["state"]) == ("stale", "dead")
    assert status["holders"][0]["proof"] in command("show", "job").stdout
    assert "STALE" in command("ls").stdout


def test_a_damaged_record_is_an_error(command: Command, session: interlock.Session, file_url: str) -> None:
    """Damage is shown beside the sound records, ends every look with 2, and `break` sets it aside."""
    for name in ("job", "sound"):
        session.lock(name).acquire()
        session.lock(name).release()
    record = Path(file_url.removeprefix("file://")) / "records" / file_name("job")
    record.write_bytes(b"rubbish")
    ls = command("ls", "--all", "--json")
    assert ls.returncode == 2
    assert sorted(status["state"] for status in json.loads(ls.stdout)) == ["damaged", "free"]
    for verb in ("show", "check"):
        looked = command(verb, "job")
        assert looked.returncode == 2
        assert "damaged" in looked.stdout
    assert command("clear").returncode == 2
    assert command("break", "job", "--reason", "a test").returncode == 0
    assert command("check", "job").returncode == 0


def test_control_characters_are_escaped(command: Command, session: interlock.Session) -> None:
    """Nothing that a name or a note holds reaches the terminal as a command to it."""
    name = "job\x1b[2J\nfake  lock  free"
    holder = command.hold(name, "--note", "\x1b]0;title\x07")
    for args in (("ls",), ("show", name), ("check", name), ("run", name, "--if-held", "skip", "--", "true")):
        said = command(*args)
        assert all(character.isprintable() for character in (said.stdout + said.stderr).replace("\n", ""))
        assert not any(line.startswith("fake") for line in said.stdout.splitlines())
    assert let_go(holder)[0] == 0


def test_looking_changes_nothing(command: Command, session: interlock.Session, file_url: str) -> None:
    """No file of the scope is made, changed or replaced by a look, so a scope that may only be read can be seen."""
    session.lock("job").acquire()
    session.once("work", lambda: 1)
    before = tree(file_url)
    for args in (("ls", "--all"), ("show", "job"), ("check", "job"), ("show", "work"), ("clear",)):
        command(*args)
    assert tree(file_url) == before


def test_looking_never_makes_an_attempt_fail(command: Command, session: interlock.Session) -> None:
    """Beside processes that look all the time, whoever tries a free lock once always gets it."""
    lock = session.lock("job")
    lookers = [command.start(*args) for args in (("ls", "--all"), ("show", "job"), ("check", "job")) * 2]
    attempts = 0
    while any(looker.poll() is None for looker in lookers):
        grant = lock.try_acquire()
        assert grant is not None
        grant.release()
        attempts += 1
    assert attempts > 10
    assert all(looker.returncode in (0, 1) for looker in lookers)


def test_a_record_of_a_later_version_is_damaged_to_this_one(session: interlock.Session) -> None:
    """A record this version cannot decode is told as such, and is not taken for free."""
    session.lock("job").acquire()
    session.lock("job").release()
    stored = session.store.read("job")
    assert stored is not None
    with pytest.raises(interlock.RecordInvalid, match="'turnstile'"):
        inspection.understand(stored._replace(kind="turnstile"))
    with pytest.raises(interlock.RecordInvalid, match="'job'"):
        inspection.understand(stored._replace(text='{"token":1}'))
