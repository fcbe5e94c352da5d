"""Fork and exit: nothing that was inherited is touched, and what a process opened is closed when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import pytest

from handles.resource import CLOSED, DESTROYED, OPEN, Resource, events, openers
from interlock.handles import PerProcess
from processes import FORK, finish, run

TESTS = str(Path(__file__).parent.parent)


def execute(program: str, log: Path) -> str:
    """Run a program of its own to its orderly end; it must succeed and complain about nothing."""
    header = (
        "import os, sys, threading, multiprocessing\n"
        "from handles.resource import Resource\nfrom interlock.handles import PerProcess\n"
        "log = sys.argv[1]\n"
    )
    done = subprocess.run(
        [sys.executable, "-Werror", "-c", header + program, str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_child_that_ends_in_order_never_touches_what_it_inherited(tmp_path: Path) -> None:
    """Not by close, not by destructor, not when it drops its handles, collects garbage and ends its interpreter."""
    log = tmp_path / "log"
    execute(
        "import gc\n"
        "handle = PerProcess(Resource, log)\n"
        "each = PerProcess(Resource, log, per_thread=True)\n"
        "here = handle.get(), each.get()\n"
        "ready, end = threading.Event(), threading.Event()\n"
        "thread = threading.Thread(target=lambda: (each.get(), ready.set(), end.wait()))\n"
        "thread.start(); ready.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    assert handle.get() is not here[0] and each.get() is not here[1]\n"
        "    handle.close(); each.close()\n"
        "    del here, handle, each\n"
        "    gc.collect()\n"
        "else:\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "    end.set(); thread.join()\n"
        "    assert handle.get() is here[0] and each.get() is here[1]\n",
        log,
    )
    assert events(log, foreign=True) == []
    assert len(openers(log)) == 5
    assert events(log).count(CLOSED) == events(log).count(DESTROYED) == 5


def test_a_child_of_a_thread_never_touches_what_other_threads_had(tmp_path: Path) -> None:
    """The thread that forks is the child's only one; the main thread's resource is inherited like any other."""
    log = tmp_path / "log"
    execute(
        "each = PerProcess(Resource, log, per_thread=True)\n"
        "mine = each.get()\n"
        "def fork():\n"
        "    inherited = each.get()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        assert each.get() not in (mine, inherited)\n"
        "        sys.exit()\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "    assert each.get() is inherited\n"
        "thread = threading.Thread(target=fork)\n"
        "thread.start(); thread.join()\n",
        log,
    )
    assert events(log, foreign=True) == []
    assert len(openers(log)) == 3


def get_and_check(handle: PerProcess[Resource]) -> None:
    """In a child: what it gets it has opened itself."""
    assert handle.get().pid == os.getpid()


def test_a_child_is_not_stopped_by_an_opening_of_its_parent(tmp_path: Path) -> None:
    """A thread that the fork left behind was in the middle of opening, with others waiting for it."""
    log = str(tmp_path / "log")
    parent = os.getpid()
    begun, go_on = Event(), Event()

    def opener() -> Resource:
        if os.getpid() == parent:
            begun.set()
            go_on.wait()
        return Resource(log)

    handle = PerProcess(opener)
    threads = [Thread(target=handle.get) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        run(get_and_check, handle)
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert openers(log).count(parent) == 1
    assert events(log, foreign=True) == []


def fork_on(handle: PerProcess[Resource], generations: int) -> None:
    """In a child: use the handle, and let a child of its own do so."""
    get_and_check(handle)
    if generations:
        child = FORK.Process(target=fork_on, args=(handle, generations - 1))
        child.start()
        finish(child)
    get_and_check(handle)


def test_every_generation_opens_its_own(tmp_path: Path) -> None:
    """And closes it, and only it."""
    log = str(tmp_path / "log")
    handle = PerProcess(Resource, log)
    fork_on(handle, 4)
    handle.close()
    assert len(set(openers(log))) == len(openers(log)) == 5
    assert events(log, foreign=True) == []
    assert events(log).count(CLOSED) == 5


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_closes_at_its_end(tmp_path: Path, method: str) -> None:
    """However it was started and however it leaves, also by an exception."""
    log = str(tmp_path / "log")
    child = get_context(method).Process(target=get_and_check, args=(PerProcess(Resource, log),))
    child.start()
    finish(child)
    assert openers(log) == [child.pid]
    assert events(log)[:2] == [OPEN, CLOSED]


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "thread.join()"])
def test_a_process_closes_at_its_end(tmp_path: Path, ending: str) -> None:
    """By falling off the end or by leaving, with a thread alive that had opened its own."""
    log = tmp_path / "log"
    execute(
        "shared, each = PerProcess(Resource, log), PerProcess(Resource, log, per_thread=True)\n"
        "held = shared.get(), each.get()\n"
        "thread = threading.Thread(target=lambda: (shared.get(), each.get()))\n"
        f"thread.start()\n{ending}\n",
        log,
    )
    assert events(log).count(OPEN) == events(log).count(CLOSED) == 3


def test_a_close_that_fails_at_the_end_is_logged_and_the_others_are_closed(tmp_path: Path) -> None:
    """The process ends as it would have ended."""
    log = tmp_path / "log"
    out = execute(
        "import logging\nlogging.basicConfig(stream=sys.stdout)\n"
        "def fail(resource): raise OSError('disk full')\n"
        "handles = [PerProcess(Resource, log, n, close=fail if n == 1 else None) for n in range(3)]\n"
        "held = [handle.get() for handle in handles]\n",
        log,
    )
    assert "could not be closed" in out
    assert "disk full" in out
    assert events(log).count(CLOSED) == 2


def test_descriptors_stay_as_many_as_there_are_resources(tmp_path: Path) -> None:
    """A hundred threads, one after the other, and the parent of ten children: nothing is left open."""
    path = tmp_path / "file"
    path.write_text("x")
    handle = PerProcess(open, path, per_thread=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        thread = threading.Thread(target=handle.get)
        thread.start()
        thread.join()
    for _ in range(10):
        run(handle.get)
    assert len(os.listdir("/proc/self/fd")) == before
    handle.get()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    handle.close()
