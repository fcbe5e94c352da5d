"""`interlock.pidfile`: what the lock files of shell scripts say, and whether their holders live."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import interlock
from interlock import pidfile
from interlock.errors import AcquireTimeout
from interlock.holder import Life
from interlock.pidfile import PidFile, clear, look, survey
from pidfiles import GONE, HOST, held_by_another_process, put, running, status
from processes import as_root, become_nobody, kill, open_directory, run, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where no file is yet."""
    return tmp_path / ".training_lock"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the directory one that other hosts may see."""
    monkeypatch.setattr("interlock.pidfile.verdict.may_be_shared", lambda path: True)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory, so that a change can be told."""
    return {str(at): (at.stat().st_mtime_ns, at.read_bytes() if at.is_file() else b"") for at in root.rglob("*")}


# -- what a file says

TIME = datetime(2026, 1, 12, 16, 49, 29, 536651).timestamp()
CONTENTS: dict[str, dict[str, Any]] = {
    "4121": {"pid": 4121},
    "4121\n": {"pid": 4121},
    "\r\n 4121 \r\n": {"pid": 4121},
    "4121 node7\n": {"pid": 4121, "host": "node7"},
    "node7 4121\n": {"pid": 4121, "host": "node7"},
    "4121@node7.cluster": {"pid": 4121, "host": "node7.cluster"},
    "node-7:4121": {"pid": 4121, "host": "node-7"},
    "4121\nnode7\n": {"pid": 4121, "host": "node7"},
    "10.0.0.5 4121": {"pid": 4121, "host": "10.0.0.5"},
    "localhost:4121": {"pid": 4121, "host": "unknown"},
    "pid=4121\nhost=node7\n": {"pid": 4121, "host": "node7"},
    "PID: 4121\nHostname: node7\nuser: ada\n": {"pid": 4121, "host": "node7", "user": "ada"},
    "pid=4121,device=cuda:0,time=1.5": {"pid": 4121},
    "host=node7\nLSB_JOBID=812[3]\n": {"host": "node7", "scheduler": "lsf", "job_id": "812", "array_index": 3},
    "pid=4121\nSLURM_JOB_ID=812\n": {"pid": 4121, "job_id": "812"},
    "pid=4121\nstarted=2026-01-12T16:49:29.536651\n": {"pid": 4121, "since": TIME},
    "pid=4121\nstarted=1768236569.5\n": {"pid": 4121, "since": 1768236569.5},
    '{"pid": 4121, "hostname": "node7", "job_id": "unknown", "user": "ada", "ratio": null,\n "acquired_at": '
    '"2026-01-12T16:49:29.536651"}': {"pid": 4121, "host": "node7", "user": "ada", "job_id": None, "since": TIME},
    "": {"pid": 0, "host": "unknown"},
    " \n": {"pid": 0},
    "{}": {"pid": 0},
}


@pytest.mark.parametrize("content", CONTENTS)
def test_what_shells_and_old_programs_write_is_understood(path: Path, content: str) -> None:
    """A pid, a pid and a host in any order, lines of keys and values, JSON: each gives its facts, and no others."""
    put(path, content, age=500)
    found = pidfile.said(path)
    assert found is not None
    nothing = {
        "pid": 0,
        "host": "unknown",
        "user": "",
        "scheduler": None,
        "job_id": None,
        "since": path.stat().st_mtime,
    }
    expected = {**nothing, **CONTENTS[content]}
    assert {name: getattr(found, name) for name in expected} == expected


GARBAGE = {
    "binary": b"\xff\x00\x12", "nul": b"\x004121", "words": b"hello world", "two pids": b"4121 4122", "time": b"1.7e9",
    "no process": b"99999999", "zero": b"pid=0", "negative": b"-4121", "list": b"[" * 4000, "deep": b'{"pid":' * 900,
    "true": b'{"pid": true}', "object": b'{"pid": {}}', "no host": b"4121 no/de", "terminal": b"4121 \x1b[2J",
    "long": b"4121\n" * 5000, "other digits": "٤١٢١".encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_unknown_whatever_its_age(path: Path, name: str) -> None:
    """What cannot be understood is not guessed at: it is UNKNOWN, cleared by force only, and told in plain letters."""
    put(path, GARBAGE[name], age=1e6)
    found = look(path)
    assert found is not None
    assert found.status == "UNKNOWN"
    assert found.proof.isascii()
    assert found.proof.isprintable()
    assert clear(path) is None
    with pytest.raises(AcquireTimeout, match="UNKNOWN"):
        PidFile(path).acquire()
    assert path.read_bytes() == GARBAGE[name]


def plant_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


PLANTED: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "directory": os.mkdir,
    "socket": plant_socket,
    "link": lambda path: path.symlink_to(put(path.with_name("target"), str(GONE), age=1e6)),
    "dangling": lambda path: path.symlink_to(path.with_name("nothing")),
    "loop": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_no_file_is_unknown(path: Path, kind: str) -> None:
    """Nothing that is planted is opened for good, waited for, followed or removed; everybody is told what it is."""
    PLANTED[kind](path)
    found = look(path)
    assert found is not None
    assert (found.status, "not read" in found.proof) == ("UNKNOWN", True)
    assert clear(path) is None
    with pytest.raises(AcquireTimeout, match=r"not a regular file|symbolic link|No such device"):
        PidFile(path).acquire()
    assert os.path.lexists(path)
    assert not path.with_name("nothing").exists()


# -- the judgement


def test_no_file_has_no_status(path: Path) -> None:
    """Where no file is, or not even its directory, there is nothing to tell; and looking makes nothing."""
    assert look(path) is None
    assert look(path.parent / "missing" / "file") is None
    assert look(put(path.with_name("file"), "") / "below") is None
    assert tree(path.parent).keys() == {str(path.with_name("file"))}


@pytest.mark.parametrize("form", ["{pid}", "{pid} {host}", "{host}:{pid}", '{{"pid": {pid}, "hostname": "{host}"}}'])
def test_a_process_of_this_host_tells(path: Path, form: str) -> None:
    """The file of a process that runs is ACTIVE, and STALE from the moment at which it was killed."""
    process = start(time.sleep, 60)
    put(path, form.format(pid=process.pid, host=HOST))
    found = look(path)
    assert found is not None
    assert found.holder is not None
    assert (found.status, found.holder.pid, found.holder.host) == ("ACTIVE", process.pid, HOST)
    kill(process)
    found = look(path)
    assert found is not None
    assert found.status == "STALE"
    assert found.proof == f"PID not running: there is no process {process.pid}"


def test_a_zombie_does_not_run(path: Path) -> None:
    """A process that has ended holds nothing, though its parent has not asked for its end yet."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    put(path, str(pid))
    assert status(path) == "STALE"
    os.waitpid(pid, 0)


def test_a_pid_that_was_reused(path: Path) -> None:
    """A process that began clearly after the file is not the one that made it; one that began with it is."""
    mine = os.getpid()
    with running() as process:
        assert status(put(path, str(process.pid), age=30)) == "ACTIVE"
        found = look(put(path, str(process.pid), age=90))
    assert found is not None
    assert found.status == "STALE"
    assert f"process {process.pid} is another one now" in found.proof
    assert status(put(path, str(mine))) == "ACTIVE"


@pytest.mark.usefixtures("shared")
def test_a_file_server_whose_clock_is_late(path: Path) -> None:
    """Where another host's clock gave the file its time, a few minutes prove neither a reuse nor a missing pid."""
    with running() as process:
        assert status(put(path, f"{process.pid} {HOST}", age=300)) == "ACTIVE"
        assert status(put(path, f"{process.pid} {HOST}", age=900)) == "STALE"
    assert status(put(path, "", age=300)) == "UNKNOWN"
    assert status(put(path, "", age=900)) == "STALE"


def test_a_file_from_before_the_boot(path: Path) -> None:
    """No process outlives its machine, not even one with the lowest pid, which every boot starts anew."""
    assert status(put(path, "1", age=1e9)) == "STALE"
    assert status(put(path, f"1 {HOST}", age=1e9)) == "STALE"
    assert status(put(path, "1 node7", age=1e9)) == "UNKNOWN"


def test_a_file_from_before_the_boot_where_processes_are_hidden(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known for dead even if /proc tells nothing of the process that has its pid now."""
    really = pidfile.verdict.process
    monkeypatch.setattr("interlock.pidfile.verdict.process", lambda pid: really(pid) if pid == os.getpid() else None)
    assert status(put(path, "1", age=1e9)) == "STALE"


@pytest.mark.parametrize("age", [0, 1e6])
def test_a_holder_on_another_host(path: Path, age: float) -> None:
    """Another host's pid says nothing here, however old; the proof tells which command to run where."""
    put(path, f"{GONE} node7.cluster", age)
    found = look(path)
    assert found is not None
    assert found.status == "UNKNOWN"
    assert found.proof == (
        f"held on node7.cluster, no way to ask from here: run `interlock ls --pidfiles {path}` there"
    )
    assert found.holder is not None
    assert found.holder.describe().startswith(f"node7.cluster pid {GONE}")


@pytest.mark.usefixtures("shared")
def test_a_pid_without_a_host_where_others_share_the_directory(path: Path) -> None:
    """It may be counted on any of the hosts, so that no process here proves anything."""
    assert status(put(path, str(GONE))) == "UNKNOWN"
    assert status(put(path, str(os.getpid()))) == "UNKNOWN"
    assert status(put(path, f"{GONE} {HOST}")) == "STALE"


@pytest.mark.parametrize(
    ("host", "here", "same"),
    [
        ("node7", "node7", True), ("NODE7", "node7", True), ("node7.x", "node7", True), ("node7", "node7.x", True),
        ("node7.a", "node7.b", False), ("node70", "node7", False), ("10.0.0.5", "10.0.0.6", False),
    ],
)  # fmt: skip
def test_names_of_this_host(path: Path, monkeypatch: pytest.MonkeyPatch, host: str, here: str, same: bool) -> None:
    """A short name is that of every host which is called so; two long ones must be the same."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=here))
    assert status(put(path, f"{GONE} {host}")) == ("STALE" if same else "UNKNOWN")


def test_a_file_without_a_pid(path: Path) -> None:
    """It may just be written; after a minute nobody writes any more. One that names a host or a job is never so old."""
    assert status(put(path, "", age=0)) == "UNKNOWN"
    assert status(put(path, "", age=-1e6)) == "UNKNOWN"
    found = look(put(path, "", age=61))
    assert found is not None
    assert found.status == "STALE"
    assert found.proof.startswith("no PID")
    assert status(put(path, "started=2026-01-12T16:49:29", age=61)) == "STALE"
    assert status(put(path, "host=node7", age=1e6)) == "UNKNOWN"
    assert status(put(path, f"host={HOST}", age=1e6)) == "UNKNOWN"
    assert status(put(path, "LSB_JOBID=a-name", age=1e6)) == "UNKNOWN"


@pytest.mark.parametrize(
    ("life", "expected"),
    [(Life("alive", "it runs"), "ACTIVE"), (Life("dead", "over"), "STALE"), (Life("unknown", ""), None), (None, None)],
)  # fmt: skip
def test_the_scheduler_is_asked_first(
    path: Path, monkeypatch: pytest.MonkeyPatch, life: Life | None, expected: str | None
) -> None:
    """Its word about the job decides on every host; where it knows nothing, the pid does, as far as it can."""
    asked = []
    fake = SimpleNamespace(life=lambda holder: asked.append((holder.job_id, holder.array_index)) or life)
    monkeypatch.setattr(interlock, "schedulers", fake, raising=False)
    found = look(put(path, f"pid={GONE}\nhost=node7\nLSB_JOBID=812[3]"))
    assert found is not None
    assert found.status == (expected or "UNKNOWN")
    assert asked == [("812", 3)]
    assert status(put(path, f"pid={GONE}\nSLURM_JOB_ID=812")) == {"ACTIVE": "ACTIVE"}.get(expected or "", "STALE")


# -- looking


@as_root
def test_looking_takes_and_makes_nothing() -> None:
    """A reader without any right to write learns of all files, held, foreign and left behind; and nothing changes."""

    def child(folder: Path) -> None:
        become_nobody()
        assert {Path(at).parent.name: life.status for at, life in survey(folder)} == expected

    with open_directory() as folder:
        for name in ("shell", "ours", "left"):
            (folder / name).mkdir(mode=0o755)
        put(folder / "shell" / ".training_lock", str(os.getpid()))
        with held_by_another_process(folder / "left" / ".training_lock") as process:
            kill(process)
        with PidFile(folder / "ours" / ".training_lock"):
            for at in folder.rglob(".interlock*"):
                run_readable(at)
            expected = {"shell": "ACTIVE", "ours": "ACTIVE", "left": "STALE"}
            before = tree(folder)
            folder.chmod(0o555)
            run(child, folder)
            assert tree(folder) == before


def run_readable(space: Path) -> None:
    """Let everybody read a space."""
    for at in [space, *space.rglob("*")]:
        at.chmod(0o755 if at.is_dir() else 0o644)


@as_root
def test_a_guard_that_may_not_be_looked_at(path: Path) -> None:
    """A file whose guard is another user's secret is UNKNOWN, even if its pid is gone; nobody crashes."""

    def child(path: Path) -> None:
        become_nobody()
        found = look(path)
        assert found is not None
        assert (found.status, "cannot be looked at" in found.proof) == ("UNKNOWN", True)

    with open_directory() as folder:
        with held_by_another_process(folder / "lock") as process:
            kill(process)
        run(child, folder / "lock")


def test_what_is_surveyed(tmp_path: Path) -> None:
    """A directory with all below, a file, a pattern: sorted by path, without what interlock keeps beside the files."""
    for name in ("b/x", "a/y/z"):
        (tmp_path / name).mkdir(parents=True)
        with PidFile(tmp_path / name / ".training_lock"):
            pass
        put(tmp_path / name / ".training_lock", str(GONE))
        put(tmp_path / name / "other.lock", str(os.getpid()))
    training = [str(tmp_path / name / ".training_lock") for name in ("a/y/z", "b/x")]
    assert [(at, life.status) for at, life in survey(tmp_path)] == [(at, "STALE") for at in training]
    assert [at for at, _ in survey(f"{tmp_path}/**/.training_lock")] == training
    assert [life.status for _, life in survey(f"{tmp_path}/*/*/*.lock")] == ["ACTIVE"]
    assert [at for at, _ in survey(training[1])] == [training[1]]
    assert list(survey(tmp_path / "missing")) == []
