"""`interlock run`: who runs, who waits, who is skipped, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import interlock
from cli.command import HOLD, Command, ended, let_go
from interlock import completion, inspection
from patience import until


@pytest.mark.parametrize(
    ("command_line", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        (("no-such-command-anywhere",), 127),
        (("/",), 126),
    ],
)
def test_the_exit_code_is_the_commands(command: Command, command_line: tuple[str, ...], code: int) -> None:
    """Success, failure, death by a signal, and a command that cannot be run are told as a shell tells them."""
    assert command("run", "job", "--", *command_line).returncode == code


def test_the_command_is_told_what_is_held(command: Command, file_url: str) -> None:
    """The name, the scope and the token are in its environment, and a later token is larger."""
    show = ("run", "job", "--", "sh", "-c", 'echo "$INTERLOCK_NAME $INTERLOCK_URL $INTERLOCK_TOKEN"')
    first, second = command(*show).stdout.split(), command(*show).stdout.split()
    assert first[:2] == ["job", file_url]
    assert int(second[2]) > int(first[2]) > 0


def test_the_lock_is_the_librarys(command: Command, session: interlock.Session) -> None:
    """What `session.lock` holds, `interlock run` does not get, and the other way round."""
    with session.lock("job"):
        assert command("run", "job", "--if-held", "skip", "--", "true").returncode == 75
    holder = command.hold("job")
    assert session.lock("job").try_acquire() is None
    assert let_go(holder)[0] == 0
    assert session.lock("job").try_acquire() is not None


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--if-held", "skip"), 75), (("--if-held", "fail"), 1), (("--timeout", "0.05"), 75), (("--timeout", "0"), 75)],
)
def test_what_is_held_is_not_run(command: Command, options: tuple[str, ...], code: int) -> None:
    """Skipping, failing and timing out have their exit codes, run nothing, and name the holder."""
    holder = command.hold("job", "--note", "the long one")
    refused = command("run", "job", *options, "--", "echo", "it ran")
    assert (refused.returncode, refused.stdout) == (code, "")
    assert f"pid {holder.pid}" in refused.stderr
    assert "the long one" in refused.stderr
    assert let_go(holder)[0] == 0


def test_waiting_says_for_whom_and_ends_with_the_hold(command: Command, session: interlock.Session) -> None:
    """A waiter reports on standard error who is ahead, and runs when that one is done."""
    holder = command.hold("job")
    waiter = command.start("run", "job", "--", "echo", "it ran")
    assert waiter.stderr is not None
    assert f"pid {holder.pid}" in waiter.stderr.readline()
    assert let_go(holder)[0] == 0
    assert waiter.communicate(timeout=60)[0] == "it ran\n"
    assert waiter.returncode == 0
    assert not session.lock("job").locked()


def test_readers_share_and_exclude_a_writer(command: Command) -> None:
    """Two `--read` run at once; an exclusive run is kept out, and lets no reader in while it holds."""
    readers = [command.hold("data", "--read") for _ in range(2)]
    assert command("run", "data", "--if-held", "skip", "--", "true").returncode == 75
    assert [let_go(reader)[0] for reader in readers] == [0, 0]
    writer = command.hold("data")
    assert command("run", "data", "--read", "--if-held", "skip", "--", "true").returncode == 75
    assert let_go(writer)[0] == 0


def test_permits_are_counted(command: Command) -> None:
    """Of two permits, two commands hold one each and a third gets none until one is back."""
    first, second = command.hold("gpu", "--permits", "2"), command.hold("gpu", "--permits", "2")
    third = ("run", "gpu", "--permits", "2", "--if-held", "skip", "--", "true")
    assert command(*third).returncode == 75
    assert let_go(first)[0] == 0
    assert command(*third).returncode == 0
    assert let_go(second)[0] == 0


def test_a_key_names_what_python_names(command: Command, session: interlock.Session) -> None:
    """`--key` stands in place of NAME, and shell and Python meet in one name, however a number is written."""
    key = ("--key", "strategy=baseline", "--key", "ratio=0.50")
    with session.lock(interlock.key(ratio=0.5, strategy="baseline")) as grant:
        assert command("run", *key, "--if-held", "skip", "--", "true").returncode == 75
        assert command("check", *key).returncode == 1
        assert json.loads(command("show", *key, "--json").stdout)["holders"][0]["token"] == grant.token
    ran = command("run", *key, "--once", "--", "sh", "-c", 'echo "$INTERLOCK_NAME" "$0" "$1"', "a", "--key")
    assert ran.stdout == "ratio=0.5,strategy=baseline a --key\n"
    holder = command.hold(*key)

    assert command("break", *key, "--reason", "a test").returncode == 0
    assert let_go(holder)[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--key", "ratio=", "--", "echo", "it ran"), "no value"),
        (("run", "--key", "ratio", "--", "echo", "it ran"), "NAME=VALUE"),
        (("run", "--key", "a=1"), "a command"),
        (("run", "job"), "a command"),
        (("run", "job", "--key", "a=1", "--", "echo", "it ran"), "drop 'job' or --key"),
        (("run", "--key", "a=1", "job", "--", "echo", "it ran"), "drop 'job' or --key"),
        (("run", "--key", "a=1", "echo", "it ran"), "after --"),
        (("check", "job", "--key", "a=1"), "one of NAME and --key"),
        (("show",), "one of NAME and --key"),
        (("break", "--reason", "a test"), "one of NAME and --key"),
        (("check", "--key", "a=1", "--key", "a=2"), "twice"),
    ],
)
def test_a_slip_in_a_key_is_refused(command: Command, words: tuple[str, ...], said: str) -> None:
    """A variable that is not set, a name given twice over, or none at all: an error, and nothing runs."""
    refused = command(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--read", "--once"),
        ("--permits", "0"),
        ("--permits", "2", "--skip-if-done"),
        ("--if-held", "skip", "--timeout", "1"),
        ("--timeout", "soon"),
        ("--timeout", "nan"),
    ],
)
def test_contradictions_are_refused(command: Command, options: tuple[str, ...]) -> None:
    """Options that cannot mean anything together are an error before anything runs."""
    refused = command("run", "job", *options, "--", "echo", "it ran")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr


def test_an_error_is_one_line(command: Command, tmp_path: Path, session: interlock.Session) -> None:
    """A scope that cannot be used, and a name of another kind, end with 2 and a line that says why."""
    (tmp_path / "file").write_text("")
    session.event("flag").set()
    for args in (("run", "--url", f"{tmp_path}/file", "job"), ("run", "flag"), ("run", "")):
        refused = command(*args, "--", "echo", "it ran")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("interlock: ")
        assert refused.stderr.count("\n") == 1


def test_a_killed_run_frees_the_name_and_takes_its_command_along(command: Command) -> None:
    """After SIGKILL the command does not go on unlocked, and the next run gets the name and is told of the death."""
    holder = command.start("run", "job", "--", "sh", "-c", "echo $$; exec sleep 60")
    assert holder.stdout is not None
    orphan = os.pidfd_open(int(holder.stdout.readline()))
    holder.kill()
    assert ended(orphan)
    following = command("run", "job", "--timeout", "30", "--", "echo", "it ran")
    assert (following.returncode, following.stdout) == (0, "it ran\n")
    assert "died" in following.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_waiter_that_is_ended_leaves_the_queue(command: Command, file_url: str, number: signal.Signals) -> None:
    """A signal while waiting ends the wait at once, with the signal's code, and leaves no ticket and no session."""
    holder = command.hold("job")
    waiter = command.start("run", "job", "--", "echo", "it ran")
    store = interlock.stores.open_store(file_url)
    until(lambda: inspection.look(store, "job").waiters)
    waiter.send_signal(number)
    assert waiter.communicate(timeout=60)[0] == ""
    assert waiter.returncode == 128 + number
    assert not inspection.look(store, "job").waiters
    assert len(list(store.sessions())) == 1
    assert let_go(holder)[0] == 0


def test_what_is_done_is_skipped(command: Command, file_url: str) -> None:
    """After a success the command is not run again, and who did it is on record; a failure leaves no such record."""
    count = ("run", "job", "--skip-if-done", "--", "sh", "-c")
    assert command(*count, "echo it ran; exit 3").returncode == 3
    ran, skipped = command(*count, "echo it ran"), command(*count, "echo it ran")
    assert (ran.returncode, ran.stdout) == (0, "it ran\n")
    assert (skipped.returncode, skipped.stdout) == (0, "")
    done = completion.find(interlock.stores.open_store(file_url), "job")
    assert done is not None
    assert done.exit_code == 0
    assert done.describe() != ""
    assert "pid" in skipped.stderr


def test_done_is_looked_up_again_under_the_lock(command: Command, file_url: str) -> None:
    """Whoever waited while another did the work does not do it once more."""
    holder = command.hold("job", "--once")
    waiter = command.start("run", "job", "--once", "--", "echo", "it ran twice")
    store = interlock.stores.open_store(file_url)
    until(lambda: inspection.look(store, "job").waiters)
    assert let_go(holder)[0] == 0
    assert waiter.communicate(timeout=60)[0] == ""
    assert waiter.returncode == 0


def test_of_many_one_runs(command: Command, tmp_path: Path) -> None:
    """Eight processes that start at once run the command once between them, although the first attempt fails."""
    script = 'echo ran >> "$0"; test "$(wc -l < "$0")" -gt 1'
    log = tmp_path / "log"
    jobs = [command.start("run", "job", "--skip-if-done", "--", "sh", "-c", script, str(log)) for _ in range(8)]
    for job in jobs:
        job.communicate(timeout=60)
    assert sorted(job.returncode for job in jobs) == [0] * 7 + [1]
    assert log.read_text() == "ran\n" * 2


def test_a_forgotten_completion_is_done_again(command: Command) -> None:
    """`interlock break NAME#done` makes the name undone, and nothing else does."""
    once = ("run", "job", "--once", "--", "echo", "it ran")
    assert command(*once).stdout == "it ran\n"
    assert command("break", "job", "--reason", "the lock, not the completion").returncode == 0
    assert command("clear", "--apply").returncode == 0
    assert command(*once).stdout == ""
    assert command("break", "job#done", "--reason", "new data").returncode == 0
    assert command(*once).stdout == "it ran\n"


def test_no_completion_without_the_hold(command: Command, session: interlock.Session) -> None:
    """Work that ended well after its hold was taken away is an error, and is not recorded as done."""
    holder = command.start("run", "job", "--once", *HOLD)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    assert command("break", "job", "--reason", "a test").returncode == 0
    assert let_go(holder)[0] == 2
    assert completion.find(session.store, "job") is None
