"""Keeps daemons: starts them, and leaves nothing of them behind, whatever ends first.

``python -m launchers.daemons DIRECTORY '[["munged", ...], ...]'`` runs commands that turn into daemons, one after
another, says ``started``, and waits until it is terminated or its standard input ends, as it does when whoever started
it is killed. Then it kills all that descends from it and removes the directory, which stays if a command has failed.
Nothing escapes: whatever loses its parent becomes a child of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Start the daemons, wait, and end them."""
    directory, commands = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        for command in json.loads(commands):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        print("started", flush=True)
        with contextlib.suppress(SystemExit):
            sys.stdin.read()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_children()
    shutil.rmtree(directory)


def _end_children() -> None:
    """Kill every child, and those that are adopted because their parents were killed, until there is none."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid():
            yield int(stat.parent.name)


if __name__ == "__main__":
    main()
