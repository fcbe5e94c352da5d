"""A program's start-up, to be run by every rank of any launcher: ``python -m launchers.startup JOURNAL [FAULT]``.

What the ranks build goes beside the journal. A fault befalls one rank, the `VICTIM`, or the first one to come; the
others write down what they were told about it, and when.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import interlock
from launchers.journal import Journal
from patience import until

VICTIM = 2
HANGS_S = 20.0  # a wait that takes so long ends in an error that no test expects

LATE_S = 2.0  # longer than a rank believes that another one lives


class Startup:
    """One rank's part in the start-up."""

    def __init__(self, journal: Journal, rank: int | None = None, size: int | None = None) -> None:
        self.journal = journal
        self.session = interlock.connect("job://", rank=rank, size=size)
        self.node = interlock.world().node
        self.is_victim = self.session.rank == VICTIM
        self._tell("connected", scope=self.session.url, node=self.node, world=interlock.world())

    def run(self) -> None:
        """Build what is built once per job and once per node, share an index, and start together."""
        self._build("job", Path("data"))
        self._build("node", Path(f"data-of-node-{self.node}"))
        with self.session.first("together", timeout=HANGS_S) as alone:
            if not alone:
                self.session.barrier("the others", self.session.size - 1).wait(HANGS_S)
        self._tell("index", index=self.session.single("index", self._index, timeout=HANGS_S))
        self.session.barrier("start").wait(HANGS_S)
        self._tell("started")

    def _build(self, scope: str, name: Path) -> None:
        """As people do it: whoever finds nothing builds it."""
        with self.session.first(f"build for the {scope}", scope=scope, timeout=HANGS_S) as alone:
            self._tell(f"{scope}: enters", alone=alone, node=self.node)
            if not (self.journal.path.parent / name).exists():
                self._tell(f"{scope}: builds", node=self.node)
                (self.journal.path.parent / name).touch()
            self._tell(f"{scope}: leaves", alone=alone, node=self.node)

    def _index(self) -> list[int]:
        self._tell("index: builds")
        return [self.session.rank, os.getpid()]

    # -- faults

    def suffer(self, fault: str) -> None:
        """Go through a start-up with a fault, and write down how it went for this rank."""
        try:
            getattr(self, fault)()
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            self._tell("raised", kind=type(error).__name__, says=str(error), text=text)
        else:
            self._tell("went on")
        if fault not in ("die_once", "leave_with_an_error"):  # how ranks end is what these are about
            through = self.session.size - fault.startswith("die")
            until(lambda: len(self.journal.read("raised") + self.journal.read("went on")) == through, HANGS_S)

    def die_once(self) -> None:
        """All start, then the victim is killed while the others work; when they are started again, all goes well."""
        again = bool(self.journal.read("at work"))
        self.run()
        if not again and self.is_victim:
            self._die()
        while not again:
            signal.pause()

    def raise_in_single(self) -> None:
        """The writer raises."""
        self.session.single("index", self._fail, writer=VICTIM, timeout=HANGS_S)

    def raise_in_first(self) -> None:
        """The first rank raises in its block, which the others then do not run."""
        self._come_second()
        with self.session.first("index", timeout=HANGS_S):
            self._fail()

    def leave_with_an_error(self) -> None:
        """The first rank raises, closes its session and is gone before another one comes."""
        if self.is_victim:
            try:
                with self.session, self.session.first("index", timeout=HANGS_S):
                    raise ValueError("no such genome")
            finally:
                self._tell("at work")
        self._come_second()
        with self.session.first("index", timeout=HANGS_S):
            self._tell("enters")

    def die_outside_the_barrier(self) -> None:
        """A rank is killed that is no party of a barrier of three; the last party comes late."""
        if self.is_victim:
            self._die()
        barrier = self.session.barrier("the others", self.session.size - 1)
        if self.session.rank == self.session.size - 1:
            with suppress(AssertionError):
                until(lambda: barrier.broken, LATE_S)
        barrier.wait(HANGS_S)

    def die_writing(self) -> None:
        """The first writer is killed; another one takes over."""
        self._come_second()
        self._tell("index", index=self.session.single("index", self._die_or_index, timeout=HANGS_S))

    def die_in_first(self) -> None:
        """The first rank is killed in its block; another one runs it alone, then the others."""
        self._come_second()
        with self.session.first("index", timeout=HANGS_S) as alone:
            self._tell("enters", alone=alone)
            if self.is_victim:
                self._die()

    def die_as_the_only_writer(self) -> None:
        """The writer that was asked for is killed; nobody may take over."""
        self.session.single("index", self._die_or_index, writer=VICTIM, timeout=HANGS_S)

    def die_before_the_barrier(self) -> None:
        """A rank is killed after it connected and before it met anybody."""
        if self.is_victim:
            self._die()
        self.session.barrier("start").wait(HANGS_S)

    def die_before_its_turn_to_write(self) -> None:
        """The writer that was asked for is killed before it met anybody."""
        if self.is_victim:
            self._die()
        self.session.single("index", self._index, writer=VICTIM, timeout=HANGS_S)

    def die_in_the_barrier(self) -> None:
        """A rank is killed while it waits; the last one comes when the barrier is broken already."""
        barrier = self.session.barrier("start")
        if self.is_victim:
            threading.Thread(target=self._die_among_others, args=(barrier,), daemon=True).start()
        elif self.session.rank == self.session.size - 1:
            until(lambda: barrier.broken, HANGS_S)
        else:
            until(lambda: barrier.waiting > 0 or barrier.broken, HANGS_S)
        barrier.wait(HANGS_S)

    def _die_among_others(self, barrier: interlock.Barrier) -> None:
        until(lambda: barrier.waiting > 1, HANGS_S)
        self._die()

    def _come_second(self) -> None:
        """Let the victim be the first."""
        if not self.is_victim:
            until(lambda: bool(self.journal.read("at work")), HANGS_S)

    def _die_or_index(self) -> list[int]:
        if self.is_victim:
            self._die()
        return self._index()

    def _die(self) -> NoReturn:
        self._tell("at work")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it was killed")

    def _fail(self) -> NoReturn:
        self._tell("at work")
        raise ValueError("no such genome")

    def _tell(self, event: str, **details: Any) -> None:
        self.journal.add(event, rank=self.session.rank, at=time.monotonic(), **details)


def main(journal: str, fault: str = "", *, rank: int | None = None, size: int | None = None) -> None:
    """One rank from beginning to end."""
    startup = Startup(Journal(journal), rank, size)
    if fault:
        startup.suffer(fault)
    else:
        startup.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
