"""Real processes for tests: forked, killed, waited for, and never left behind.

A forked child shares the tests' imports, so that a process costs a millisecond. It runs one function and ends with
`os._exit`; it dies with its parent, so that a killed test run leaves nobody behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_pids: set[int] = set()


def fork(work: Callable[[], object], *, outlives: bool = False) -> int:
    """Run `work` in a child; its exit code is 0, or 1 after an exception, whose traceback goes to stderr.

    One that `outlives` its parent must be killed by whoever knows its pid.
    """
    pid = os.fork()
    if pid:
        _pids.add(pid)
        return pid
    code = 1
    try:
        if _prctl is not None and not outlives:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _pids.clear()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill(pid: int) -> None:
    """SIGKILL a child and collect it."""
    os.kill(pid, signal.SIGKILL)
    wait(pid)


def wait(pid: int, timeout: float = 30.0) -> int:
    """The exit code of a child, negative for a signal; a child that hangs is killed and fails the test."""
    end, nap = time.monotonic() + timeout, 0.0002
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _pids.discard(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            kill(pid)
            raise AssertionError(f"process {pid} did not end within {timeout} s")
        time.sleep(nap)
        nap = min(nap * 1.5, 0.01)


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Kill whatever children the block leaves behind."""
    before = set(_pids)
    try:
        yield
    finally:
        for pid in _pids - before:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                kill(pid)


class Board:
    """Numbers in memory shared with every child forked later: what a child writes here outlives its SIGKILL.

    Each slot is one aligned word with one writer at a time, stored whole.
    """

    def __init__(self, slots: int) -> None:
        self._map = mmap.mmap(-1, max(slots * 8, mmap.PAGESIZE))
        self._words = memoryview(self._map).cast("q")

    def __getitem__(self, slot: int) -> int:
        return self._words[slot]

    def __setitem__(self, slot: int, value: int) -> None:
        self._words[slot] = value


class Log:
    """An append-only log: each entry is one `O_APPEND` write, so the order of the entries is an order in real time."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, *entry: Any) -> None:
        """Append one entry of JSON values."""
        os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def entries(self) -> list[Any]:
        """Everything written so far."""
        return [json.loads(line) for line in os.pread(self._fd, os.fstat(self._fd).st_size, 0).splitlines()]

    def close(self) -> None:
        os.close(self._fd)
