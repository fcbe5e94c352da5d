"""Pid files as shells leave them, and processes that hold them, for the tests of what becomes of both."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interlock.pidfile import PidFile, look
from processes import FORK, kill, start

HOST = os.uname().nodename
GONE = 1 << 22  # no process has this pid: the kernel's numbers end before


def put(path: Path, content: str | bytes, age: float = 0.0) -> Path:
    """A file that somebody made so many seconds ago."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def status(path: Path) -> str | None:
    """Its status, if there is a file."""
    found = look(path)
    return found.status if found else None


@contextmanager
def held_by_another_process(path: Path) -> Iterator[Any]:
    """The process that holds the file meanwhile, unless it is killed before."""
    mine, theirs = FORK.Pipe()

    def hold() -> None:
        with PidFile(path):
            theirs.send("held")
            theirs.recv()

    process = start(hold)
    assert mine.poll(60)
    yield process
    with suppress(BrokenPipeError):
        mine.send("enough")
    process.join(60)


@contextmanager
def running() -> Iterator[Any]:
    """A process that has just begun."""
    process = start(time.sleep, 60)
    yield process
    kill(process)
