"""One host measures a directory, and the ways in which a directory can be no good."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import Command
from doctor.conftest import begin, finish, left
from hosts import Host
from interlock import doctor
from interlock.errors import Unavailable
from interlock.stores import _mount
from patience import until
from processes import NOBODY, as_root, become_nobody, open_directory, run


@pytest.fixture
def interlock(tmp_path: Path) -> Command:
    """The command line."""
    return Command(f"file://{tmp_path}/space")


def test_a_disk_of_this_host_is_decided_at_once(tmp_path: Path, interlock: Command) -> None:
    """On a local file system every primitive works, the file store's own choice is pinned, and nothing else is left."""
    done = interlock("doctor", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["primitive"], found["decided"], found["refused"], found["url"]) == (
        "ofd", True, {}, f"file://{tmp_path}",
    )  # fmt: skip
    (alone,) = found["measured"]["hosts"].values()
    assert alone["shared_mapping"] is True
    assert abs(alone["server_clock_ahead_s"]) < 1
    assert left(tmp_path) == [_mount.VERDICT]
    pinned = json.loads((tmp_path / _mount.VERDICT).read_text())
    assert {"schema": 1, "primitive": "ofd", "hosts": [os.uname().nodename], "refused": {}}.items() <= pinned.items()


def test_no_pin_leaves_nothing(tmp_path: Path, interlock: Command) -> None:
    """The verdict is only printed, and the line to use names the primitive."""
    done = interlock("doctor", str(tmp_path), "--no-pin")
    assert done.returncode == 0
    assert f"--url 'file://{tmp_path}?primitive=ofd'" in done.stdout
    assert left(tmp_path) == []


def test_a_missing_directory_is_an_error(tmp_path: Path, interlock: Command) -> None:
    """Nothing is made that was not there."""
    done = interlock("doctor", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert f"cannot use {tmp_path}/nothing: it does not exist" in done.stderr
    assert left(tmp_path) == []


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """A path that is a file is refused before anything is made."""
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="a file is where the directory should be"):
        doctor.examine(tmp_path / "file")


def test_a_directory_that_may_not_be_written_is_an_error() -> None:
    """Who may not write cannot measure, and is told so."""

    def measure() -> None:
        become_nobody()
        with pytest.raises(Unavailable, match="permission denied"):
            doctor.examine(directory)

    with open_directory() as directory:
        directory.chmod(0o555)
        run(measure)
        assert left(directory) == []


def test_a_read_only_mount_is_an_error(up: Callable[..., tuple[Host, ...]]) -> None:
    """Where nothing can be written nothing can be measured: one line, exit code 2."""
    (a,) = up("a", kind=("-o", "ro"))
    code, out, err = finish(begin(a))
    assert (code, out) == (2, "")
    assert "the file system is read-only" in err


def test_nobody_comes(tmp_path: Path) -> None:
    """The wait for others has an end, and the error says what to start and where."""
    with pytest.raises(Unavailable, match=r"nobody else came within 1 s.* other host: interlock doctor .* --probe x"):
        doctor.examine(tmp_path, probe="x", timeout=1)
    assert left(tmp_path) == []


def test_a_terminated_probe_leaves_nothing(tmp_path: Path, interlock: Command) -> None:
    """SIGTERM, as a scheduler sends it, ends the wait for others, and the folder goes."""
    process = interlock.start("doctor", str(tmp_path), "--probe", "x")
    until((tmp_path / ".interlock-doctor-x" / "leader.0").exists)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert left(tmp_path) == []


def test_two_on_one_mount_are_not_two_hosts(tmp_path: Path, interlock: Command) -> None:
    """Both sides on one machine and one mount prove nothing about other hosts; both are told."""
    processes = [interlock.start("doctor", str(tmp_path), "--probe", "x") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "look through the same mount of the same machine" in err
    assert left(tmp_path) == []


def test_a_folder_that_is_removed_ends_the_probe(tmp_path: Path, interlock: Command) -> None:
    """Who tidies up by hand stops whoever waits there, with the reason and not with an error of some file."""
    process = interlock.start("doctor", str(tmp_path), "--probe", "x")
    until((tmp_path / ".interlock-doctor-x" / "leader.0").exists)
    shutil.rmtree(tmp_path / ".interlock-doctor-x")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"the probe has ended without a verdict: {tmp_path}/.interlock-doctor-x was removed" in err


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "x" * 65, "a b", "x\n"])
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    """A probe's name becomes part of a file name and of a remote command."""
    with pytest.raises(ValueError, match="not a plain name"):
        doctor.examine(tmp_path, probe=name)


@pytest.mark.parametrize("hosts", ["a", "a,a", "a,", "a,-oProxyCommand=x"])
def test_hosts_are_names(tmp_path: Path, interlock: Command, hosts: str) -> None:
    """Fewer than two hosts measure nothing, and what ssh would read as an option is no host."""
    done = interlock("doctor", str(tmp_path), "--hosts", hosts)
    assert done.returncode == 2
    assert "at least two hosts" in done.stderr


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("echo '{\"from\": \"'$1'\"}'", "the hosts did not come to the same verdict"),
        ("echo Welcome to $1", "the hosts did not answer in JSON"),
        ("echo no disk >&2; exit 2", "a: no disk; b: no disk"),
        ("exit 9", "a: exit code 9; b: exit code 9"),
    ],
)
def test_what_hosts_answer_is_not_trusted(tmp_path: Path, interlock: Command, answer: str, error: str) -> None:
    """Answers that differ, that are no answers, and errors: each is one line, with exit code 2."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\n{answer}\n")
    ssh.chmod(0o755)
    done = interlock("doctor", str(tmp_path), "--hosts", "a,b", "--ssh", str(ssh))
    assert done.returncode == 2
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("planted", ["link to a directory", "dangling link", "file"])
def test_what_is_planted_in_place_of_the_folder_is_not_entered(tmp_path: Path, planted: str) -> None:
    """A symbolic link or a file at the folder's name is an error, and neither it nor its target is touched."""
    target, place, work = tmp_path / "target", tmp_path / "work" / ".interlock-doctor-x", tmp_path / "work"
    work.mkdir()
    target.mkdir()
    (target / "guest-1.0").write_text("{}")
    if planted == "file":
        place.write_text("precious")
    else:
        place.symlink_to(target if planted == "link to a directory" else "nowhere")
    with pytest.raises(Unavailable, match="not a folder of a probe"):
        doctor.examine(work, probe="x", timeout=1)
    assert left(work) == [".interlock-doctor-x"]
    assert left(target) == ["guest-1.0"]
    assert place.is_symlink() or place.read_text() == "precious"


@as_root
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Whoever made the folder could change what is measured, so it must be one's own."""
    folder = tmp_path / ".interlock-doctor-x"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(Unavailable, match="made by another user"):
        doctor.examine(tmp_path, probe="x", timeout=1)
    assert folder.exists()


def test_what_a_killed_leader_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    """Its folder looks like a probe that waits: the next one waits in vain once, says so, and makes room."""
    folder = tmp_path / ".interlock-doctor-x"
    folder.mkdir(mode=0o700)
    (folder / "leader.0").write_text(json.dumps({"holder": "ada@node7 pid 4121"}))
    with pytest.raises(Unavailable, match=r"ada@node7 pid 4121 has said nothing for 2 s"):
        doctor.examine(tmp_path, probe="x", timeout=1)
    assert left(tmp_path) == []


def test_a_probe_that_has_begun_takes_no_more(tmp_path: Path) -> None:
    """Who comes late is told, and disturbs nothing."""
    folder = tmp_path / ".interlock-doctor-x"
    folder.mkdir(mode=0o700)
    (folder / "leader.0").write_text(json.dumps({"holder": "ada@node7 pid 4121"}))
    (folder / "leader.1").write_text(json.dumps({"begun": ["guest-somebody"]}))
    with pytest.raises(Unavailable, match="has begun without this host, led by ada@node7 pid 4121"):
        doctor.examine(tmp_path, probe="x", timeout=5)
    assert {"leader.0", "leader.1"} <= {*left(folder)}
