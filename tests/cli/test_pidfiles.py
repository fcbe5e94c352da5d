"""The lock files of shell scripts on the command line: in one list with our own locks, judged, cleared and held."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.command import HOLD, Command, let_go

TAKE = 'set -o noclobber; echo "$$" > "$1"'  # how a script takes such a file
ELSEWHERE = "4711 node7\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory of weights: one folder whose training runs, one whose has died, one that another host holds."""
    for name, content in (("live", f"{os.getpid()}\n"), ("dead", f"{_gone()}\n"), ("far", ELSEWHERE)):
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / ".training_lock").write_text(content)
    return tmp_path / "weights"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that trains for as long as its standard input is open, and the file that it has taken."""
    path = tmp_path / ".training_lock"
    with subprocess.Popen(
        ["bash", "-c", f"({TAKE}) && echo ready; read line; rm $1", "train.sh", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "ready\n"
        yield script
        script.communicate("\n" if script.poll() is None else None)


def _gone() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


def test_both_kinds_are_one_list(command: Command, weights: Path) -> None:
    """`ls` tells our locks and the shells' files in one shape, each holder with its status and the proof."""
    holder = command.hold("job")
    found = {
        status["name"]: (status["kind"], status["state"], status["holders"][0]["status"])
        for status in json.loads(command("ls", "--json", "--pidfiles", str(weights)).stdout)
    }
    assert found == {
        "job": ("lock", "held", "ACTIVE"),
        f"{weights}/live/.training_lock": ("pidfile", "held", "ACTIVE"),
        f"{weights}/dead/.training_lock": ("pidfile", "stale", "STALE"),
        f"{weights}/far/.training_lock": ("pidfile", "held", "UNKNOWN"),
    }
    told = command("ls", "--pidfiles", str(weights))
    assert all(f"pid {pid}" in told.stdout for pid in (os.getpid(), holder.pid, 4711))
    assert "held on node7" in told.stdout
    assert "interlock clear ... --apply --force --reason" in told.stderr
    assert let_go(holder)[0] == 0


def test_where_to_look_may_be_told_once(command: Command, weights: Path) -> None:
    """Without PREFIX, $INTERLOCK_PIDFILES counts; places on the command line count instead of it, and as globs too."""

    def listed(*options: str) -> list[str]:
        found = json.loads(command("ls", "--json", *options).stdout)
        return [status["name"].removeprefix(f"{weights}/").split("/")[0] for status in found]

    command.environment["INTERLOCK_PIDFILES"] = f"{weights}/live:{weights}/far/.training_lock:"
    assert listed() == ["live", "far"]
    assert listed("some/prefix") == []
    assert listed("--pidfiles", f"{weights}/d*/.training_lock") == ["dead"]
    assert listed("--pidfiles", str(weights), "--pidfiles", f"{weights}/dead") == ["dead", "far", "live"]
    assert [step["path"] for step in json.loads(command("clear", "--json").stdout)] == [f"{weights}/far/.training_lock"]
    assert json.loads(command("clear", "some/prefix", "--json").stdout) == []


def test_only_what_is_stale_is_cleared(command: Command, weights: Path, file_url: str) -> None:
    """A dry run removes nothing, `--apply` the stale, force with a reason the unknown, and nothing the active."""
    files = {path.parent.name: path for path in weights.glob("*/.training_lock")}
    where = ("clear", "--pidfiles", str(weights))
    assert "would remove" in command(*where).stdout
    assert all(path.exists() for path in files.values())
    assert command(*where, "--apply").stdout.count("removed") == 1
    assert {name for name, path in files.items() if path.exists()} == {"live", "far"}
    assert command(*where, "--apply", "--force").returncode == 2
    assert files["far"].exists()
    forced = json.loads(command(*where, "--apply", "--force", "--reason", "node7 is gone", "--json").stdout)
    assert [(step["path"], step["status"], step["applied"]) for step in forced] == [
        (str(files["far"]), "UNKNOWN", True)
    ]
    assert {name for name, path in files.items() if path.exists()} == {"live"}
    (line,) = (Path(file_url.removeprefix("file://")) / "audit.log").read_text().splitlines()
    written = json.loads(line)
    assert (written["path"], written["reason"], written["state"]) == (str(files["far"]), "node7 is gone", "unknown")


def test_a_path_is_looked_at_as_the_file_it_is(command: Command, weights: Path) -> None:
    """`show` and `check` of a pid file tell of it: held, free if it is stale, and never free if nobody can tell."""
    codes = {name: command("check", f"{weights}/{name}/.training_lock").returncode for name in ("live", "dead", "far")}
    assert codes == {"live": 1, "dead": 0, "far": 1}
    shown = command("show", f"{weights}/far/.training_lock").stdout
    assert "UNKNOWN: held on node7" in shown
    assert f"interlock clear --pidfiles {weights}/far/.training_lock" in shown
    renamed = weights / "live" / "train.pid"
    renamed.write_text(f"{os.getpid()}\n")
    assert command("check", str(renamed)).returncode == 1
    assert command("check", f"{weights}/none/.training_lock").returncode == 0


def test_a_name_with_a_slash_stays_a_name(command: Command, tmp_path: Path) -> None:
    """Paths that are no pid files are names as before, and a name that is held is told as such."""
    data = tmp_path / "data.csv"
    data.write_text("a,b\n1,2\n")
    (tmp_path / "empty").touch()
    for name in (str(data), str(tmp_path), str(tmp_path / "empty"), "no/such/file"):
        assert command("check", name).stdout == f"{name}: free\n"
    holder = command.hold(str(data))
    assert f"pid {holder.pid}" in command("check", str(data)).stdout
    assert let_go(holder)[0] == 0


@pytest.mark.parametrize(
    ("options", "code"), [(("--if-held", "skip"), 75), (("--if-held", "fail"), 1), (("--timeout", "0.05"), 75)]
)
def test_a_script_that_runs_keeps_a_new_one_out(
    command: Command, shell: subprocess.Popen[str], tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    """While a shell's file stands, `run --pidfile` refuses as `--if-held` says, names it, and leaves it alone."""
    path = tmp_path / ".training_lock"
    refused = command("run", "job", "--pidfile", str(path), *options, "--", "echo", "it ran")
    assert (refused.returncode, refused.stdout) == (code, "")
    assert str(path) in refused.stderr
    assert f"pid {shell.pid}" in refused.stderr
    assert path.read_text() == f"{shell.pid}\n"
    assert command("check", "job").returncode == 0


def test_the_end_of_a_script_is_waited_for(command: Command, shell: subprocess.Popen[str], tmp_path: Path) -> None:
    """By default the command runs when the script that held the file has removed it."""
    path = tmp_path / ".training_lock"
    waiter = command.start("run", "job", "--pidfile", str(path), "--", "cat", str(path))
    assert waiter.stderr is not None
    assert f"pid {shell.pid}" in waiter.stderr.readline()
    shell.communicate("\n")
    assert waiter.communicate(timeout=60)[0] == f"{waiter.pid}\n"
    assert waiter.returncode == 0
    assert not path.exists()


def test_old_scripts_respect_a_new_run(command: Command, tmp_path: Path) -> None:
    """A shell cannot take the file while the command runs, and can as soon as it has ended."""
    path = tmp_path / ".training_lock"
    take = ["bash", "-c", TAKE, "train.sh", str(path)]
    holder = command.start("run", "job", "--pidfile", str(path), *HOLD)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    assert path.read_text() == f"{holder.pid}\n"
    assert subprocess.run(take, capture_output=True).returncode != 0
    assert let_go(holder)[0] == 0
    assert subprocess.run(take, capture_output=True).returncode == 0


def test_a_killed_run_leaves_a_stale_file(command: Command, tmp_path: Path) -> None:
    """What a run that was killed leaves is STALE, and the next one takes name and file over."""
    path = tmp_path / ".training_lock"
    holder = command.start("run", "job", "--pidfile", str(path), *HOLD)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    holder.kill()
    holder.communicate()
    assert path.exists()
    following = command("run", "job", "--pidfile", str(path), "--timeout", "30", "--", "cat", str(path))
    assert following.returncode == 0
    assert int(following.stdout) not in (holder.pid, os.getpid())
    assert not path.exists()
