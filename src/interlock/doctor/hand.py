"""A hand: one process of one host that does single steps in the folder of a probe, as it is told.

Every measurement is a short conversation with two hands, and does not know where they are: `OwnHand` is a process of
this host behind a pipe, `meeting.Distant` one of another host behind a file. Nothing here draws conclusions.

1. A step is one thing that a program may do: take a lock, write, link, look. `Worker` has them all.
2. Files that are locked, read and written stay open from the first use on, as those of the file store do; what is
   looked at is opened afresh each time.
3. A hand is a process of its own, so it can be killed while it holds something. It ends when nobody listens any more.

Layer: under `doctor.probes`; it stands on the stores' kernel locks and wake-up words.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, Protocol

from interlock.errors import Unavailable
from interlock.stores import _futex, _kernel_lock
from interlock.stores._kernel_lock import PRIMITIVES, Primitive

PACE_S = 0.002  # from one round of a race to the next
_POLL_S = 0.001
_LIMIT_BYTES = 1 << 16
_KILLED_S = 2.0  # how long a killed process may take to go; one that waits for a hung file server never does


class Refused(Exception):
    """The system refused a step; the reason in its words."""


class Hand(Protocol):
    """One process of one host. `ahead` is how many seconds its wall clock is before ours."""

    host: str
    ahead: float

    def begin(self, step: str, *arguments: Any) -> None:
        """Let it do a step of `Worker`; others may do theirs meanwhile."""

    def end(self) -> Any:
        """What came of the step.

        Raises: Refused: the system's error. Unavailable: no answer came in time.
        """

    def kill(self) -> None:
        """End it as the kernel does when memory runs out; the next step is done by a new process."""


def do(hand: Hand, step: str, *arguments: Any) -> Any:
    """Let a hand do one step to its end."""
    hand.begin(step, *arguments)
    return hand.end()


def ends(*hands: Hand) -> list[Any]:
    """What came of steps that several were doing at the same time; none is left unfinished.

    Raises: Refused: as the first of them did.
    """
    answers: list[Any] = []
    for hand in hands:
        try:
            answers.append(hand.end())
        except Refused as refusal:
            answers.append(refusal)
    for answer in answers:
        if isinstance(answer, Refused):
            raise answer
    return answers


class OwnHand:
    """A process of this host. `folder` is the open folder of the probe, `patience` the longest wait for a step."""

    ahead = 0.0

    def __init__(self, host: str, folder: int, patience: float) -> None:
        self.host = host
        self._folder = folder
        self._patience = patience
        self._step = ""
        self._process: ForkProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def begin(self, step: str, *arguments: Any) -> None:
        if self._pipe is None:
            self._start()
        self._step = step
        self._pipe.send((step, arguments))  # type: ignore[union-attr]

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, pipe, self._folder), daemon=True)
        process.start()
        other.close()
        self._process, self._pipe = process, pipe  # an interrupt before this line leaves a process that hears nobody

    def end(self) -> Any:
        pipe = self._pipe
        if pipe is None or not pipe.poll(self._patience):
            raise Unavailable(f"{self.host}: {self._step!r} did not come back within {self._patience:g} s")
        try:
            done, answer = pipe.recv()
        except EOFError:
            raise Unavailable(f"{self.host}: the process that was to do {self._step!r} has died") from None
        if not done:
            raise Refused(f"{answer}, on {self.host}")
        return answer

    def kill(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join(_KILLED_S)
            self._pipe.close()
            self._process = self._pipe = None


def _serve(pipe: Connection[Any, Any], other: Connection[Any, Any], folder: int) -> None:
    """Do step after step until the pipe ends."""
    other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for whoever tells us what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker = Worker(folder)
    with suppress(EOFError, OSError):
        while True:
            step, arguments = pipe.recv()
            try:
                answer = True, worker.step(step)(*arguments)
            except (OSError, ValueError) as error:  # the second: bytes that nobody wrote
                answer = False, getattr(error, "strerror", None) or str(error)
            pipe.send(answer)


class Worker:
    """The steps. All that they take and give is plain JSON."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}
        self._words: dict[str, _futex.Words] = {}

    def step(self, name: str) -> Callable[..., Any]:
        """One of the steps below, by its name."""
        if name.startswith("_") or name == "step" or name not in vars(Worker):
            raise OSError(f"there is no step {name!r}")
        found: Callable[..., Any] = getattr(self, name)
        return found

    # -- through a descriptor that stays open

    def take(self, primitive: str, name: str) -> bool:
        """Try to lock a file."""
        return _primitive(primitive).try_lock(self._descriptor(name))

    def wait(self, primitive: str, name: str, seconds: float) -> bool:
        """Lock a file, within a time."""
        return _kernel_lock.acquire(_primitive(primitive), self._descriptor(name), time.monotonic() + seconds)

    def give(self, primitive: str, name: str) -> None:
        """Unlock it."""
        _primitive(primitive).unlock(self._descriptor(name))

    def tested(self, primitive: str, name: str) -> bool:
        """Whether somebody else seems to hold it."""
        return _primitive(primitive).held_by_other(self._descriptor(name))

    def read(self, name: str) -> str:
        """All that it holds."""
        return os.pread(self._descriptor(name), _LIMIT_BYTES, 0).decode()

    def write(self, name: str, text: str) -> None:
        """Write at its beginning."""
        os.pwrite(self._descriptor(name), text.encode(), 0)

    def count(self, primitive: str, name: str, times: int, seconds: float) -> bool:
        """Add one to the number in it, under the lock, so many times; False if time ran out."""
        end = time.monotonic() + seconds
        for _ in range(times):
            if not self.wait(primitive, name, end - time.monotonic()):
                return False
            self.write(name, f"{int(self.read(name)) + 1:08}")
            self.give(primitive, name)
        return True

    def word(self, name: str) -> int:
        """The first word of a file that is mapped, and stays so."""
        if name not in self._words:
            self._words[name] = _futex.Words(self._descriptor(name))
        return self._words[name].read(0)

    def wake(self, name: str) -> None:
        """Change that word."""
        self.word(name)
        self._words[name].wake(0)

    # -- through the name

    def create(self, name: str) -> bool:
        """Make a file that must not exist."""
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder))
        except FileExistsError:
            return False
        return True

    def link(self, name: str) -> bool:
        """Give a file of one's own one more name, which must not exist."""
        mine = f"{os.getpid()}.{os.urandom(4).hex()}"
        self.create(mine)
        try:
            os.link(mine, name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=False)
        except FileExistsError:
            return False
        finally:
            os.unlink(mine, dir_fd=self._folder)
        return True

    def race(self, step: str, name: str, rounds: int, start: float) -> list[bool]:
        """Do a step at set times by this host's clock, for a new name each time: whether it succeeded."""
        won = []
        for lap in range(rounds):
            time.sleep(max(0.0, start + lap * PACE_S - time.time()))
            won.append(self.step(step)(f"{name}.{lap}"))
        return won

    def replace(self, name: str, text: str) -> None:
        """Rename a new file over the name."""
        self.rewrite(f".{name}", text)
        os.rename(f".{name}", name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def rewrite(self, name: str, text: str) -> None:
        """Write in place, at the beginning."""
        self._put(name, text, 0)

    def append(self, name: str, text: str) -> None:
        """Write at the end."""
        self._put(name, text, os.O_APPEND)

    def look(self, how: str, name: str) -> Any:
        """What is seen of a name, opened afresh: its ``size``, its ``text``, or whether a listing has it."""
        if how == "listed":
            again = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                return name in os.listdir(again)
            finally:
                os.close(again)
        try:
            if how == "size":
                return os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_size
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, _LIMIT_BYTES).decode()
        finally:
            os.close(fd)

    def expect(self, how: str, name: str, wanted: Any, seconds: float) -> bool:
        """Look again and again until that is seen; False if time ran out."""
        end = time.monotonic() + seconds
        while self.look(how, name) != wanted:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True

    # -- clocks

    def clock(self) -> float:
        """This host's wall clock."""
        return time.time()

    def server_ahead(self, name: str) -> float:
        """How many seconds the file server's clock is before this host's, by a file that it dates."""
        before = time.time()
        self.rewrite(name, "x")
        dated = os.stat(name, dir_fd=self._folder).st_mtime
        return dated - (before + time.time()) / 2

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(
                name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._folder
            )
        return self._open[name]

    def _put(self, name: str, text: str, flags: int) -> None:
        flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._folder)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _primitive(name: str) -> Primitive:
    if name not in PRIMITIVES:
        raise OSError("this system does not have it")
    return PRIMITIVES[name]
