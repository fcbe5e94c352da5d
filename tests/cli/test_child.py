"""The command under `interlock run`: what it hears, what it inherits, and that it does not outlive the hold."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import interlock
from cli.command import Command, let_go
from interlock.cli import child

LISTENER = """
import os, select, signal
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
    signal.signal(signal.Signals[name], lambda *_: None)
os.write(1, b"ready\\n")
while reader in (ready := select.select([reader, 0], [], [])[0]):
    for number in os.read(reader, 16):
        os.write(1, signal.Signals(number).name.encode() + b"\\n")
"""


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signals_are_passed_on(command: Command, name: str) -> None:
    """A signal sent to `interlock run` reaches the command once, and does not end the run."""
    run = command.start("run", "job", "--", sys.executable, "-c", LISTENER)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.Signals[name])
    assert run.stdout.readline() == f"{name}\n"
    assert run.communicate("\n", timeout=60)[0] == ""
    assert run.returncode == 0


def test_the_terminals_interrupt_is_not_doubled(command: Command) -> None:
    """Ctrl-C reaches the command from the terminal, once, and not a second time through `interlock run`."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "interlock", "run", "job", "--", sys.executable, "-c", LISTENER],
        env=command.environment,
        stdin=slave,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    ) as run:
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == "ready\n"
            run.send_signal(signal.SIGSTOP)  # so that two interrupts could not melt into one
            os.write(master, b"\x03")
            assert run.stdout.readline() == "SIGINT\n"
            run.send_signal(signal.SIGUSR1)  # taken after the interrupt, which would have been passed on before
            run.send_signal(signal.SIGCONT)
            assert run.stdout.readline() == "SIGUSR1\n"
            os.write(master, b"\n")
            assert run.stdout.readline() == ""
        except BaseException:
            run.kill()
            raise
    assert run.returncode == 0
    os.close(slave)
    os.close(master)


def test_a_hangup_that_is_ignored_stays_ignored(command: Command) -> None:
    """Under `nohup` a hangup ends neither the run nor its command."""

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = command.start("run", "job", "--", "sh", "-c", "echo ready; read line", preexec_fn=nohup)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGHUP)
    assert let_go(run)[0] == 0


def test_signals_are_as_the_caller_left_them(command: Command) -> None:
    """The command has no signal blocked, and none ignored that the caller did not ignore."""
    fields = dict(
        line.split(":\t") for line in command("run", "job", "--", "cat", "/proc/self/status").stdout.splitlines()
    )
    ours = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    assert int(fields["SigBlk"], 16) == 0
    ordinary = (1 << 31) - 1  # the two above are the C library's own
    assert int(fields["SigIgn"], 16) & ~int(ours["SigIgn"], 16) & ordinary == 0


def test_no_lock_is_inherited(command: Command, file_url: str) -> None:
    """None of the command's descriptors leads into the scope, so a child it leaves behind holds nothing."""
    listed = command("run", "job", "--", "ls", "-l", "/proc/self/fd").stdout
    assert "/proc/" in listed
    assert file_url.removeprefix("file://") not in listed


def test_a_lost_hold_stops_the_command(command: Command, session: interlock.Session) -> None:
    """After `interlock break` the command gets SIGTERM, and the run ends with an error that says why."""
    code = "trap 'echo stopped; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    run = command.start("run", "job", "--", "sh", "-c", code)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    assert command("break", "job", "--reason", "a test").returncode == 0
    out, said = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "stopped\n")
    assert "is lost" in said
    assert "Traceback" not in said
    assert session.lock("job").try_acquire() is not None


def test_whoever_ignores_the_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that goes on after SIGTERM is killed when its grace is over."""
    monkeypatch.setattr(child, "LOOK_S", 0.01)
    ready = tmp_path / "ready"
    stop = child.Stop("a test", 0.01)
    stubborn = ("sh", "-c", 'trap "" TERM; : > "$0"; while :; do sleep 0.05; done', str(ready))
    assert child.run(stubborn, os.environ, lambda: stop if ready.exists() else None) == (128 + signal.SIGKILL, True)


def test_signals_come_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the command has ended, this process hears signals as before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert child.run(("true",), os.environ, lambda: None) == (0, False)
    assert child.run(("/no/such/command",), os.environ, lambda: None) == (127, False)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_an_error_while_looking_takes_the_command_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the run itself fails, its command does not go on."""
    monkeypatch.setattr(child, "LOOK_S", 0.01)
    pid = tmp_path / "pid"

    def fail() -> None:
        if pid.exists() and pid.read_text():
            raise RuntimeError("the look failed")

    with pytest.raises(RuntimeError, match="the look failed"):
        child.run(("sh", "-c", 'echo $$ > "$0"; exec sleep 60', str(pid)), os.environ, fail)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
