"""Every call to the file system dies once and fails once, and the space is sound after each.

A child runs one round over everything that writes; its n-th call to the file system goes wrong, for every n there is.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import interlock
from crash.processes import collected, fork, wait
from crash.test_record_kills import Witness
from interlock.abc import Leave, Ticket
from interlock.machines.admission import LOCK, Acquire

CALLS = (
    "open", "write", "pwrite", "pread", "fstat", "link", "rename", "unlink", "mkdir", "posix_fallocate", "listdir",
)  # fmt: skip
NOT_REACHED = 42
Call = Callable[..., Any]


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(real: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Death before the call."""
    die()


def after(real: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Death after the call."""
    try:
        real(*args, **options)
    finally:
        die()


def amid(real: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Death with a part of the data written; a header lies within a page and goes in whole or not at all."""
    if real.__name__ in ("write", "pwrite") and (real.__name__ == "write" or args[2] > 0):
        real(args[0], args[1][: len(args[1]) // 2], *args[2:])
    die()


def late(real: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """An error after the call was done."""
    real(*args, **options)
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def failing(code: int) -> Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]:
    """An error in place of the call."""

    def fail(real: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


class Fault:
    """Makes the n-th call go wrong. For a child of its own: it replaces functions of `os` for good."""

    def __init__(self, number: int, wrong: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        self.left, self.wrong = number, wrong
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Call) -> Call:
        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                return self.wrong(real, args, options)
            return real(*args, **options)

        return call


def round_of_everything(session: interlock.Session, number: int) -> None:
    """Create, take, grow, shrink, compute, remove: one of each that the file store can do."""
    for name in ("lock", f"new-{number}"):
        with session.lock(name, timeout=30):
            pass
    with session.semaphore("permits", 6, timeout=30):
        pass
    store, crowd = session.store, [Ticket(session.id, 1_000_000 * number + serial) for serial in range(10)]
    try:
        for ticket in crowd:
            store.transact("crowd", LOCK, Acquire(ticket))
    finally:
        for ticket in crowd:
            give_back(session, ticket)
    for name, size in (("once", 9000), ("large", 90_000)):
        once = interlock.Once(session, name, timeout=30)
        assert once.run(lambda size=size: "x" * size) == "x" * size
        once.forget()
    store.retire(f"new-{number}", LOCK)


def give_back(session: interlock.Session, ticket: Ticket) -> None:
    """Leave, and again if the disk failed: what is being taken back must not stay."""
    try:
        session.store.transact("crowd", LOCK, Leave(ticket))
    except (interlock.Unavailable, interlock.OutcomeUnknown):
        session.store.transact("crowd", LOCK, Leave(ticket))


def sweep(witness: Witness, child: Callable[[int], None], check: Callable[[int], None], first: int, stride: int) -> int:
    """Run the child with its first, second, ... call going wrong, until there is no such call; how many there were."""
    for number in itertools.count(first, stride):
        code = wait(fork(functools.partial(child, number)))
        if code == NOT_REACHED:
            return number - 1
        check(code)
        records = witness.look()
        witness.take(witness.lock).release()
        witness.take(witness.session.lock("crowd")).release()
        witness.take(witness.permits).release()
        once = interlock.Once(witness.session, "once", timeout=0)
        assert set(once.run(lambda: "y")) <= {"x", "y"}
        once.forget()
        assert records
    raise AssertionError("unreachable")


# The way of locking, and how far apart the calls are that go wrong.
WAYS = pytest.mark.parametrize(
    ("way", "stride"),
    [
        pytest.param("ofd", 7, id="ofd"),
        pytest.param("claims", 19, id="claims"),
        pytest.param("ofd", 1, id="ofd every", marks=pytest.mark.slow),
        pytest.param("claims", 1, id="claims every", marks=pytest.mark.slow),
    ],
)
MOMENTS = (before, after, amid)
ERRORS = {"ENOSPC": failing(errno.ENOSPC), "EIO": failing(errno.EIO), "late EIO": late}


@WAYS
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_death_at_every_call_leaves_a_sound_space(file_url: str, moment: Any, way: str, stride: int) -> None:
    """SIGKILL before, after and in the middle of each call: every record is whole and the next comer goes on."""
    url = f"{file_url}?primitive={way}"
    witness = Witness(url)

    def child(number: int) -> None:
        session = interlock.connect(url)
        fault = Fault(number, moment)
        round_of_everything(session, number)
        session.close()
        assert fault.left > 0
        os._exit(NOT_REACHED)

    def check(code: int) -> None:
        assert code == -signal.SIGKILL

    with collected():
        witness.take(witness.lock).release()
        assert sweep(witness, child, check, 1 + MOMENTS.index(moment) % stride, stride) > 100


@WAYS
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_at_every_call_is_typed_and_harmless(file_url: str, error: str, way: str, stride: int) -> None:
    """Each call fails once: a typed error or none, and the same process then does everything as if nothing was."""
    url = f"{file_url}?primitive={way}"
    witness = Witness(url)

    def child(number: int) -> None:
        session = interlock.connect(url)
        fault = Fault(number, ERRORS[error])
        try:
            round_of_everything(session, number)
        except interlock.InterlockError:
            assert fault.left <= 0
        if fault.left > 0:
            os._exit(NOT_REACHED)
        for lock in (session.lock("lock"), session.lock(f"new-{number}"), session.semaphore("permits", 6)):
            if lock.held:  # a release that could not reach the record is still to be done
                lock.release()
        round_of_everything(session, number)
        session.close()

    def check(code: int) -> None:
        assert code == 0

    with collected():
        witness.take(witness.lock).release()
        assert sweep(witness, child, check, 1 + [*ERRORS].index(error) % stride, stride) > 100


PROGRAM = """
import interlock
from crash.test_faults import round_of_everything
session = interlock.connect({url!r})
round_of_everything(session, 1)
session.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("fault", ["error=EINTR", "signal=SIGKILL"])
def test_the_kernel_interrupts_every_write(file_url: str, fault: str) -> None:
    """The same, done to the system calls themselves: interrupted writes are repeated, killed ones leave no trace."""
    witness = Witness(file_url)
    program = PROGRAM.format(url=file_url)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    witness.take(witness.lock).release()
    for when in range(1, 120, 4):
        tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fallocate,linkat,renameat"]
        tracer += ["-e", f"inject=pwrite64,fallocate:{fault}:when={when}"]
        done = subprocess.run([*tracer, sys.executable, "-c", program], env=environment, timeout=60, check=False)
        assert done.returncode == 0 if "EINTR" in fault else done.returncode in (0, -signal.SIGKILL)
        witness.look()
        witness.take(witness.lock).release()
