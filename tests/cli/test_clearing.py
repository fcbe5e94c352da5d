"""`interlock clear` and `break`: what goes, what stays, and what is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import interlock
from cli.command import Command, tree
from interlock import clearing, inspection
from interlock.abc import Machine, Outcome, Store, Ticket
from interlock.machines.admission import LOCK, Acquire
from interlock.stores import _record
from patience import until


def root(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def killed(command: Command, name: str, url: str) -> None:
    """Leave behind the hold of a process that was killed."""
    holder = command.hold(name)
    holder.kill()
    holder.wait()
    until(lambda: inspection.look(interlock.stores.open_store(url), name).state == "stale")


def audit(url: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root(url) / "audit.log").read_text().splitlines()]


def test_a_dry_run_lists_what_apply_does(command: Command, session: interlock.Session, file_url: str) -> None:
    """Without `--apply` nothing changes; with it exactly what was listed is done, and then nothing is left to do."""
    killed(command, "orphan", file_url)
    with session.lock("idle"):
        pass
    session.lock("mine").acquire()
    before = tree(file_url)
    listed = command("clear", "--json")
    assert tree(file_url) == before
    applied = command("clear", "--apply", "--json")
    steps, done = json.loads(listed.stdout), json.loads(applied.stdout)
    assert [(step["action"], step["name"]) for step in steps] == [
        ("retire", "idle"), ("evict", "orphan"), ("forget", None),
    ]  # fmt: skip
    kept = ("action", "name", "kind", "session", "role", "state", "why")
    assert [[step[key] for key in kept] for step in steps] == [[step[key] for key in kept] for step in done]
    assert ([step["applied"] for step in steps], [step["applied"] for step in done]) == ([False] * 3, [True] * 3)
    assert json.loads(command("clear", "--json").stdout) == []
    assert [status.name for status in inspection.survey(session.store)] == ["mine", "orphan"]
    assert not (root(file_url) / "audit.log").exists()


def test_the_next_holder_still_learns_of_the_death(command: Command, session: interlock.Session, file_url: str) -> None:
    """Clearing a dead holder's part keeps what it means for the work: the next grant says `recovered`."""
    killed(command, "job", file_url)
    assert command("clear", "--apply").returncode == 0
    assert session.lock("job").acquire(0).recovered


def test_clearing_keeps_to_its_prefix(command: Command, session: interlock.Session, file_url: str) -> None:
    """Records under other names stay, and so does a dead session that one of them mentions."""
    killed(command, "b/orphan", file_url)
    for name in ("a/idle", "b/idle"):
        with session.lock(name):
            pass
    assert command("clear", "a/", "--apply").returncode == 0
    left = {status.name: status.state for status in inspection.survey(session.store)}
    assert left == {"b/idle": "free", "b/orphan": "stale"}


def test_results_and_completions_stay(command: Command, session: interlock.Session) -> None:
    """What was computed or done once is no litter."""
    session.once("work", lambda: 1)
    session.event("flag").set()
    assert command("run", "job", "--once", "--", "true").returncode == 0
    assert command("clear", "--apply").returncode == 0
    assert [status.name for status in inspection.survey(session.store)] == ["flag", "job#done", "work"]
    assert command("show", "job").stdout.count("exit code 0") == 1


def test_no_session_is_forgotten_beside_damage(command: Command, session: interlock.Session, file_url: str) -> None:
    """As long as a record cannot be read, nobody knows whom it mentions, and the proof of every death is kept."""
    killed(command, "job", file_url)
    (root(file_url) / "records" / "rubbish").write_text("rubbish")
    sessions = set(session.store.sessions())
    assert command("clear", "--apply").returncode == 2
    assert set(session.store.sessions()) == sessions


def test_who_may_be_alive_is_left_alone_without_force(
    command: Command, session: interlock.Session, file_url: str
) -> None:
    """A participant that nobody can judge is kept, and evicted only by force, with a reason that is written down."""
    session.lock("job").acquire()
    (root(file_url) / "sessions" / session.id).unlink()
    kept = command("clear", "--apply", "--json")
    assert [(step["action"], step["name"], step["status"], step["applied"]) for step in json.loads(kept.stdout)] == [
        ("keep", "job", "UNKNOWN", False)
    ]
    for told in (command("clear").stderr, command("ls").stderr, command("check", "job").stderr):
        assert "nobody here can tell" in told
    assert "interlock clear job --apply --force --reason" in command("show", "job").stdout
    assert command("clear", "--apply", "--force").returncode == 2
    assert session.lock("job").locked()
    assert command("clear", "--apply", "--force", "--reason", "host is gone").returncode == 0
    assert not session.lock("job").locked()
    (line,) = audit(file_url)
    assert (line["name"], line["action"], line["state"], line["reason"]) == ("job", "evict", "unknown", "host is gone")
    with pytest.raises(interlock.SessionLost):
        session.lock("job").release()


FAR = """
import os, sys
from interlock.abc import Ticket
from interlock.holder import Holder
from interlock.machines.admission import LOCK, Acquire
from interlock.stores import open_store
store = open_store(sys.argv[1])
session = store.open_session(Holder("node7", 4711, boot_id="another", pid_ns="another"), 0.6)
store.transact("job", LOCK, Acquire(Ticket(session, 1), False))
os._exit(0)
"""


def test_silence_is_heard_by_watching(command: Command, file_url: str) -> None:
    """Where sessions live by heartbeats, one look at a silent one proves nothing; `--watch` for its lease time does."""
    command.environment["INTERLOCK_URL"] += "?primitive=claims"
    subprocess.run([sys.executable, "-c", FAR, command.environment["INTERLOCK_URL"]], check=True)
    until(lambda: "UNKNOWN" in command("ls").stdout)
    assert [step["action"] for step in json.loads(command("clear", "--apply", "--json").stdout)] == ["keep"]
    steps = json.loads(command("clear", "--apply", "--watch", "1.2", "--json").stdout)
    assert [(step["action"], step["status"]) for step in steps[:1]] == [("evict", "STALE")]
    assert "no sign of life on node7" in steps[0]["why"]
    assert command("check", "job").returncode == 0


def use(session: interlock.Session, count: int) -> list[int]:
    """Use so many names once; their tokens."""
    tokens = []
    for number in range(count):
        with session.lock(f"name {number}") as grant:
            tokens.append(grant.token)
    return tokens


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_names_used_once_leave_few_files(command: Command, file_url: str, count: int) -> None:
    """After many names a clearing leaves under 100 files, and every name's next token is larger than its last."""
    with interlock.connect(file_url) as session:
        before = use(session, count)
    assert command("clear", "--apply").returncode == 0
    assert sum(len(files) for _, _, files in os.walk(root(file_url))) < 100
    with interlock.connect(file_url) as session:
        after = use(session, count)
    assert all(new > old for new, old in zip(after, before, strict=True))


def test_break_frees_a_name_and_says_who_did_it(command: Command, session: interlock.Session, file_url: str) -> None:
    """Breaking takes a living holder's hold away, who learns of it, and leaves a line in the audit trail."""
    grant = session.lock("job").acquire()
    broken = command("break", "job", "--reason", "stuck since\nMonday")
    assert broken.returncode == 0
    assert f"pid {os.getpid()}" in broken.stdout
    (line,) = audit(file_url)
    assert (line["name"], line["action"], line["reason"]) == ("job", "evict", "stuck since\nMonday")
    assert f"pid {os.getpid()}" in line["who"]
    assert "interlock break" in line["by"]
    assert line["at"].startswith("2")
    with pytest.raises(interlock.SessionLost):
        grant.release()
    assert session.lock("job").acquire(0).token > grant.token


def test_break_needs_a_reason_and_something_to_break(command: Command, file_url: str) -> None:
    """Without a reason nothing is done; a name nobody uses needs nothing, and no scope is made for it."""
    assert command("break", "job").returncode == 2
    assert command("break", "job", "--reason", "a test").returncode == 0
    assert not root(file_url).exists()


def test_break_grants_nobody_in_between(session: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiter is granted on the way only to lose it again: two of them would then have worked at once."""
    store: Store = session.store
    for serial, shared in enumerate((True, False, True, True)):
        store.transact("job", LOCK, Acquire(Ticket(f"s{serial}", 1), shared))
    woken: list[Ticket] = []
    transact = store.transact

    def watched(name: str, machine: Machine, op: object, deadline: float | None = None) -> Outcome:
        outcome = transact(name, machine, op, deadline)
        woken.extend(outcome.unpark)
        return outcome

    monkeypatch.setattr(store, "transact", watched)
    steps = clearing.break_(store, "job", "a test")
    assert [step.session for step in steps] == ["s3", "s2", "s1", "s0"]
    assert woken == []


def test_break_lets_a_barriers_parties_go(command: Command, session: interlock.Session) -> None:
    """Whoever waits at a barrier that is broken is told at once, and the barrier can be used again."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.barrier("meet", 2).wait)
        until(lambda: session.barrier("meet", 2).waiting)
        assert command("break", "meet", "--reason", "a test").returncode == 0
        with pytest.raises(interlock.BrokenBarrier):
            waiting.result(30)
    assert not session.barrier("meet", 2).broken


def test_break_sets_aside_what_only_a_newer_version_reads(
    command: Command, session: interlock.Session, file_url: str
) -> None:
    """A record that is sound outside and unreadable inside is `RecordInvalid`, and `break` frees its name."""
    with session.lock("job"):
        pass
    file = next((root(file_url) / "records").glob("job~*"))
    line = b'{"kind":"lock","name":"job","record":{"token":1,"newer":true}}\n'
    file.write_bytes(_record.blank(line))
    with pytest.raises(interlock.RecordInvalid, match="interlock break"):
        session.lock("job").acquire(0)
    assert command("break", "job", "--reason", "rolled back").returncode == 0
    with session.lock("job", timeout=5) as grant:
        assert grant.token > 1
    assert line in next((root(file_url) / "records").glob(".damaged-job~*")).read_bytes()
