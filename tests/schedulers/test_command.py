"""How a scheduler's command is run: with a limit, without the asker's filters, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from interlock.schedulers import _command
from interlock.schedulers._command import Refused, Silent, ask
from patience import until
from schedulers.conftest import Stubs


@pytest.fixture
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_command, "LIMIT_S", 0.5)


def test_what_it_prints_is_the_answer(stubs: Stubs) -> None:
    """Warnings on the error output are not part of it."""
    stubs.says("squeue", "7 jobs\n", complaint="a warning\n")
    assert ask("squeue", "--all", "a b") == "7 jobs\n"
    assert stubs.called("squeue") == ["--all", "a b"]


def test_an_absent_command_is_silent(stubs: Stubs) -> None:
    """No scheduler on this machine is no answer."""
    with pytest.raises(Silent, match="there is no squeue here"):
        ask("squeue")


def test_a_file_that_is_no_program_is_silent(stubs: Stubs) -> None:
    """Whatever cannot be run is no answer."""
    (stubs.directory / "squeue").write_bytes(b"\x7fELF")
    (stubs.directory / "squeue").chmod(0o755)
    with pytest.raises(Silent, match="squeue cannot be run"):
        ask("squeue")


def test_an_error_is_told_in_its_own_words(stubs: Stubs) -> None:
    """The complaint of a command that fails is kept short, and what it printed before is no answer."""
    stubs.says("squeue", "7 jobs\n", complaint="no such\n  job\n" + "x" * 1000, code=3)
    with pytest.raises(Refused, match=r"^squeue: no such job x{188}$"):
        ask("squeue")
    stubs.says("squeue", code=3)
    with pytest.raises(Refused, match="squeue: exit status 3"):
        ask("squeue")


@pytest.mark.usefixtures("_hurry")
def test_a_command_that_hangs_is_killed_with_its_children(stubs: Stubs) -> None:
    """Nothing that it has started goes on, though a child holds its output open."""
    stubs.script("squeue", "/bin/sleep 1000 &", f"echo $! > {stubs.directory}/pid", "wait")
    with pytest.raises(Silent, match=r"squeue did not answer within"):
        ask("squeue")
    pid = int((stubs.directory / "pid").read_text())
    until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("_hurry")
def test_a_daemon_that_is_left_behind_holds_nobody_up(stubs: Stubs) -> None:
    """A command whose child keeps the output open after it has ended itself is not waited for either."""
    stubs.script("squeue", "/bin/sleep 1000 & echo said")
    with pytest.raises(Silent, match="did not answer"):
        ask("squeue")


@pytest.mark.usefixtures("_hurry")
def test_it_is_not_asked_again_at_once(stubs: Stubs) -> None:
    """A list of a hundred holders waits for a dead controller once; other commands are asked as before."""
    stubs.script("squeue", "exec /bin/sleep 1000")
    stubs.says("bjobs", "1")
    with pytest.raises(Silent, match="within"):
        ask("squeue")
    stubs.says("squeue", "well again")
    with pytest.raises(Silent, match="squeue did not answer a moment ago"):
        ask("squeue")
    assert ask("bjobs") == "1"
    _command._resting["squeue"] = time.monotonic()
    assert ask("squeue") == "well again"


def test_a_command_that_never_stops_talking_is_cut_off(stubs: Stubs) -> None:
    """Its output does not fill the memory of whoever asks."""
    stubs.script("squeue", "exec /bin/cat /dev/zero")
    with pytest.raises(Silent, match="squeue does not stop talking"):
        ask("squeue")


def test_it_speaks_c_and_hides_nothing(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The asker's language, filters and formats are not the command's."""
    for name in ("SQUEUE_USERS", "SACCT_FORMAT", "SINFO_FORMAT", "SLURM_CLUSTERS", "LSB_BJOBS_FORMAT", "LC_TIME"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    stubs.script("squeue", f"exec {'/usr/bin/env' if os.path.exists('/usr/bin/env') else '/bin/env'}")
    told = dict(line.partition("=")[::2] for line in ask("squeue").splitlines())
    assert (told["LC_ALL"], told["SLURM_TIME_FORMAT"], told["SLURM_CONF"]) == ("C", "%s", "/etc/slurm.conf")
    assert "other" not in told.values()


def test_it_answers_where_children_are_not_waited_for(stubs: Stubs) -> None:
    """With SIGCHLD ignored, the kernel takes the exit status away; what was printed is still there."""
    stubs.says("squeue", "7 jobs\n")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert ask("squeue") == "7 jobs\n"
    finally:
        signal.signal(signal.SIGCHLD, before)
