"""`interlock.compat.prove` beside the scripts of its document, and its command line, in real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from interlock.compat.prove import TrainingLock
from pidfiles import GONE, put, running, status

WHICH = ("baseline", "IDD-AW", "deeplabv3plus_r50")
FOLDER = "baseline/idd-aw_cd/deeplabv3plus_r50"

# The script of the document; its training runs until its standard input ends.
SCRIPT = """#!/bin/bash
WEIGHTS_PATH="${AWARE_DATA_ROOT}/WEIGHTS/baseline/idd-aw_cd/deeplabv3plus_r50"
LOCK_FILE="${WEIGHTS_PATH}/.training_lock"

# Create lock directory
mkdir -p "$WEIGHTS_PATH"

# Try to acquire lock (atomic operation)
if ( set -o noclobber; echo "$$" > "$LOCK_FILE" ) 2>/dev/null; then
    trap "rm -f '$LOCK_FILE'" EXIT
    echo "Lock acquired. Starting training..."

    read line

    rm -f "$LOCK_FILE"
else
    LOCK_PID=$(cat "$LOCK_FILE" 2>/dev/null)
    echo "SKIP: Another job (PID: $LOCK_PID) is already training this model"
fi
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that AWARE_DATA_ROOT names."""
    monkeypatch.setenv("AWARE_DATA_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Starts the script: the process and the first line it says."""
    (tmp_path / "train.sh").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def begin() -> tuple[subprocess.Popen[str], str]:
        command = ["bash", str(tmp_path / "train.sh")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def prove(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "interlock.compat.prove", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


CHECK = ("check", "--strategy", "baseline", "--dataset", "IDD-AW", "--model", "deeplabv3plus_r50")


# -- scripts


def test_a_script_that_trains_keeps_us_out_until_it_ends(root: Path, script: Callable[..., tuple[object, str]]) -> None:
    """Its file refuses us for as long as it runs, and not longer."""
    process, said = script()
    assert isinstance(process, subprocess.Popen)
    assert said == "Lock acquired. Starting training..."
    lock = TrainingLock(*WHICH)
    assert lock.acquire() is False
    assert f"pid {process.pid}" in lock.reason
    assert prove(*CHECK).returncode == 1
    process.communicate("\n", timeout=60)
    assert prove(*CHECK).returncode == 0
    with lock:
        pass


def test_a_script_that_was_killed_keeps_nobody_out(root: Path, script: Callable[..., tuple[object, str]]) -> None:
    """Its trap did not run, and its file stays: the next script skips, we take over, and scripts are free again."""
    process, _ = script()
    assert isinstance(process, subprocess.Popen)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert status(root / "WEIGHTS" / FOLDER / ".training_lock") == "STALE"
    assert script()[1] == f"SKIP: Another job (PID: {process.pid}) is already training this model"
    with TrainingLock(*WHICH):
        pass
    assert script()[1] == "Lock acquired. Starting training..."


def test_we_keep_a_script_out(root: Path, script: Callable[..., tuple[object, str]]) -> None:
    """While we train the script skips and names us; afterwards it trains."""
    with TrainingLock(*WHICH):
        assert script()[1] == f"SKIP: Another job (PID: {os.getpid()}) is already training this model"
    assert script()[1] == "Lock acquired. Starting training..."


def test_scripts_after_our_sudden_end(root: Path, script: Callable[..., tuple[object, str]]) -> None:
    """A program of ours that was killed blocks scripts until its file is cleared, and no longer."""
    program = (
        f"import os; from interlock.compat.prove import TrainingLock as T; T{WHICH}.acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert script()[1].startswith("SKIP")
    assert prove("clear", "--no-dry-run").returncode == 0
    assert script()[1] == "Lock acquired. Starting training..."


# -- the command line


def test_list_says_what_the_document_shows(root: Path) -> None:
    """Sections, statuses, pids, times, paths and the total, in the document's words."""
    folders = ("a/idd-aw_cd/m1", "b/idd-aw_cd/m2", "c/idd-aw_cd/m3", "d/idd-aw_cd/m_ratio0p50")
    files = [root / "WEIGHTS" / folder / ".training_lock" for folder in folders]
    for file in files:
        file.parent.mkdir(parents=True)
    with running() as process, TrainingLock("e", "D", "m", 0.121):
        put(files[0], str(process.pid))
        put(files[1], str(GONE))
        put(files[2], "", age=100)
        put(files[3], f"{GONE} makalu94")
        told = prove("list")
    began = datetime.fromtimestamp(files[0].stat().st_mtime).isoformat()
    said = [line for line in told.stdout.splitlines() if not line.startswith("    Proof: ")]
    assert (told.returncode, told.stderr) == (0, "")
    assert said[:4] == [
        "=== File-based locks (.training_lock) (5) ===",
        "  - a/idd-aw/m1 [ACTIVE]",
        f"    PID: {process.pid}, Started: {began}",
        f"    Lock file: {files[0]}",
    ]
    assert [line.strip() for line in said if "[" in line] == [
        "- a/idd-aw/m1 [ACTIVE]",
        "- b/idd-aw/m2 [STALE - PID not running]",
        "- c/idd-aw/m3 [STALE - no PID]",
        "- d/idd-aw/m_ratio0p50 [UNKNOWN - remote process]",
        "- e/d/m_ratio0p121 [ACTIVE]",
        "- e/d/m ratio 0.121 [ACTIVE]",
    ]
    assert "=== fcntl-based locks (1) ===" in said
    assert said[-2:] == ["", "Total locks: 6"]


def test_which_kinds_are_listed(root: Path) -> None:
    """One kind, the other, none; and without verification nothing is claimed to be known."""
    assert prove("list").stdout == "No active training locks\n"
    with TrainingLock(*WHICH):
        assert "fcntl" not in prove("list", "--file-only").stdout
        assert "File-based" not in prove("--fcntl-only", "list").stdout
        assert "[UNKNOWN - not verified]" in prove("list", "--file-only", "--no-verify-pid").stdout
    assert prove("list", "--file-only", "--fcntl-only").returncode == 2


def test_clear_on_the_command_line(root: Path) -> None:
    """A dry run unless told otherwise; the unknown by force, with a reason in the audit trail."""
    gone = put_file(root, "a/d_cd/m", str(GONE))
    away = put_file(root, "b/d_cd/m", f"{GONE} makalu94")
    assert prove("clear").stdout == (f"Found 1 stale locks (dry run):\n  - {gone}\n\nRun with --no-dry-run to remove\n")
    assert prove("clear", "--fcntl-only", "--no-dry-run").stdout == "No stale locks found\n"
    assert prove("clear", "--file-only", "--no-dry-run").stdout == f"Cleared 1 stale locks:\n  - {gone}\n"
    assert prove("clear", "--no-dry-run").stdout == "No stale locks found\n"
    assert (gone.exists(), away.exists()) == (False, True)
    assert "Found 1 stale" in prove("clear", "--force").stdout
    assert prove("clear", "--force", "--no-dry-run", "--reason", "bjobs knows none").stdout.startswith("Cleared 1")
    assert not away.exists()
    assert "bjobs knows none" in (root / "training_locks" / "audit.log").read_text()


def put_file(root: Path, folder: str, content: str) -> Path:
    path = root / "WEIGHTS" / folder / ".training_lock"
    path.parent.mkdir(parents=True)
    return put(path, content)


def test_check_on_the_command_line(root: Path) -> None:
    """0 is safe, 1 is locked, with the holder on standard error; anything else is 2, and never a verdict."""
    assert (prove(*CHECK).returncode, prove(*CHECK).stderr) == (0, "")
    with TrainingLock(*WHICH):
        told = prove(*CHECK)
        assert prove(*CHECK, "--ratio", "0.5").returncode == 0
    assert told.returncode == 1
    assert told.stderr.startswith("[PRE-FLIGHT CHECK FAILED]\nConfiguration is already being trained:\n")
    assert re.search(rf"Held by: .*PID {os.getpid()}\n", told.stderr)
    assert prove("check", "--strategy", "a").returncode == 2
    (root / "training_locks" / "settings.json").write_text("?")
    assert prove(*CHECK).returncode == 2


def test_directories_on_the_command_line(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given ones are expanded and need no AWARE_DATA_ROOT; without either, one line says what is missing."""
    monkeypatch.delenv("AWARE_DATA_ROOT")
    monkeypatch.setenv("MINE", str(tmp_path))
    given = ("--lock-dir", "${MINE}/locks", "--weights-dir", "$MINE/weights")
    with TrainingLock(*WHICH, lock_dir=tmp_path / "locks", weights_dir=tmp_path / "weights"):
        assert prove("list", *given).stdout.endswith("Total locks: 2\n")
        assert prove(*CHECK, *given).returncode == 1
        assert prove(*CHECK, *given[:2]).returncode == 1
    assert prove("clear", "--file-only", *given[2:]).returncode == 0
    told = prove("list")
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert "AWARE_DATA_ROOT is not set" in told.stderr
