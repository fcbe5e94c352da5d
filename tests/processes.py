"""Processes of other users and sudden ends, for tests of what files look like to somebody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

NOBODY = 65534
FORK = multiprocessing.get_context("fork")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away and change users")


def start(fn: Callable[..., object], *args: object) -> BaseProcess:
    """A process of its own that runs `fn`; it ends with the test run at the latest."""
    process = FORK.Process(target=fn, args=args, daemon=True)
    process.start()
    return process


def run(fn: Callable[..., object], *args: object) -> None:
    """Run `fn` in a process of its own, which must succeed."""
    finish(start(fn, *args))


def finish(*processes: BaseProcess) -> None:
    """Wait for processes, which must all succeed."""
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def kill(process: BaseProcess) -> None:
    """End a process as the kernel does when memory runs out."""
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


def become_nobody() -> None:
    """Give up root's rights, if this process has them."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that other users reach and may write, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)
