"""The command line in real processes, for the tests of it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HOLD = ("--", "sh", "-c", "echo ready; read line; exit 0")  # a command that runs until its standard input ends


class Command:
    """``interlock`` in one scope; what it started ends with the test."""

    def __init__(self, url: str) -> None:
        self.environment = {**os.environ, "INTERLOCK_URL": url}
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [sys.executable, "-m", "interlock", *args],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *args: str, preexec_fn: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        """Start it, with pipes."""
        process = subprocess.Popen(
            [sys.executable, "-m", "interlock", *args],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec_fn,
        )
        self._started.append(process)
        return process

    def hold(self, *args: str) -> subprocess.Popen[str]:
        """``interlock run`` of a command that holds until `let_go`; returns when it holds."""
        process = self.start("run", *args, *HOLD)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        return process

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.communicate()


def let_go(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Let the command of `Command.hold` end; the exit code and what was said on standard error."""
    _, said = process.communicate("\n", timeout=60)
    return process.returncode, said


def ended(pidfd: int) -> bool:
    """Wait for the end of a process that need not be a child of ours; closes its descriptor."""
    try:
        return bool(select.select([pidfd], [], [], 30)[0])
    finally:
        os.close(pidfd)


def tree(url: str) -> dict[str, tuple[int, int, bytes]]:
    """Everything that lies in a file scope, so that a change can be told."""
    root = Path(url.removeprefix("file://"))
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
        if path.exists()
    }
