"""The measuring loops: processes that start together, and samples that are medians of repeats.

Every question measures all its peers in turn within each repeat, so that a busy neighbour disturbs all of them alike.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

clock = time.perf_counter
_fork = multiprocessing.get_context("fork")
LIMIT_S = 30.0  # whoever has not answered by then is hung
EDGE_S = 0.1  # turns taken before those that count


class Effort(NamedTuple):
    """How much to measure, and where the locks live."""

    directory: str
    quick: bool

    def repeats(self, full: int) -> int:
        """The number of repeats: `full`, or few enough for a glance."""
        return min(full, 2) if self.quick else full

    def seconds(self, full: float) -> float:
        """How long one sample lasts."""
        return full / 3 if self.quick else full

    def sizes(self, *full: int) -> tuple[int, ...]:
        """The numbers of processes: all, or the smallest and one more."""
        return full[:2] if self.quick else full

    def fresh(self) -> str:
        """A new, empty directory."""
        return tempfile.mkdtemp(dir=self.directory)


class Panel:
    """The samples of one setting: peer -> column -> one number for each repeat.

    `compare` is the column whose ratios to the `reference` peer are shown.
    """

    def __init__(self, title: str, compare: str, reference: str, *, more_is_better: bool) -> None:
        self.title = title
        self.compare = compare
        self.reference = reference
        self.more_is_better = more_is_better
        self.rows: dict[str, dict[str, list[float]]] = {}

    def add(self, peer: str, **sample: float) -> None:
        """One repeat's numbers; an underscore in a column's name stands for a space."""
        row = self.rows.setdefault(peer, {})
        for column, value in sample.items():
            row.setdefault(column.replace("_", " "), []).append(value)


class Worker:
    """A child process that runs ``work(pipe, *args)``."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=_run, args=(work, theirs, args), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: Any = None) -> None:
        """Say something to the child."""
        self._pipe.send(message)

    def receive(self, timeout: float = LIMIT_S) -> Any:
        """What the child says next; raises its error, or TimeoutError."""
        if not self._pipe.poll(timeout):
            raise TimeoutError(f"no answer from a process in {timeout:.0f} s")
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        """SIGKILL; it stays a zombie until `end`."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and reap it."""
        self._process.kill()
        self._process.join()


def _run(work: Callable[..., Any], pipe: Any, args: tuple[Any, ...]) -> None:
    try:
        work(pipe, *args)
    except BaseException:
        pipe.send(RuntimeError(traceback.format_exc()))
    finally:
        pipe.close()


class Window(NamedTuple):
    """When turns count: everybody is at it some time before and after, so that nobody is counted while alone."""

    begin: float
    end: float

    def open(self) -> bool:
        """Whether to go on taking turns."""
        return clock() < self.end + EDGE_S / 2

    def counts(self, started: float) -> bool:
        """Whether a turn that was started then counts."""
        return self.begin <= started < self.end


Start = Callable[[float], Window]  # takes the seconds to count


def together(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Results of ``work(index, start, *args)`` in `count` processes.

    Each calls `start` when it is ready, returns from it when all are, and gets the same `Window` as all.
    """
    ready = _fork.Value("d")
    barrier = _fork.Barrier(count, lambda: setattr(ready, "value", clock()))

    def start(seconds: float) -> Window:
        barrier.wait(LIMIT_S)
        begin = ready.value + EDGE_S
        return Window(begin, begin + seconds)

    workers = [Worker(_join_in, index, start, work, args) for index in range(count)]
    try:
        return [worker.receive() for worker in workers]
    finally:
        for worker in workers:
            worker.end()


def _join_in(pipe: Any, index: int, start: Start, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    pipe.send(work(index, start, *args))
    pipe.poll(LIMIT_S)  # a process that ends early would be one competitor less, and a dead session to find


def each_us(loop: Callable[[int], None], seconds: float) -> float:
    """Microseconds of one turn of `loop`, which takes the number of turns."""
    turns = 1
    while True:
        started = clock()
        loop(turns)
        taken = clock() - started
        if taken >= seconds / 2:
            return taken / turns * 1e6
        turns = max(turns * 2, int(turns * seconds / max(taken, 1e-6)))


def times(count: int) -> Iterator[None]:
    """The cheapest loop there is."""
    return repeat(None, count)


def quantile(samples: list[tuple[float, int]], share: float) -> float:
    """The quantile of values with weights."""
    left = share * sum(weight for _, weight in samples)
    for value, weight in sorted(samples):
        left -= weight
        if left <= 0:
            return value
    return max(samples)[0] if samples else 0.0


def fairness(counts: list[int]) -> float:
    """The largest share over the smallest; nobody may come out as zero, so a zero counts as one."""
    return max(counts) / max(min(counts), 1)


def host() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": " ".join((os.uname().sysname, os.uname().release, os.uname().machine)),
    }
