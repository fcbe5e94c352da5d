"""A resource that writes down what happens to it, in whatever process: opened, closed, destroyed."""

from __future__ import annotations

import os
from pathlib import Path

OPEN, CLOSED, DESTROYED = "open", "closed", "destroyed"


def append(  # type: ignore[no-untyped-def]
    log: str, line: str, open=os.open, write=os.write, close=os.close, flags=os.O_WRONLY | os.O_APPEND | os.O_CREAT
) -> None:
    """Add a line in one write; with nothing but its own arguments, so that it works at the interpreter's very end."""
    descriptor = open(log, flags)
    write(descriptor, line.encode())
    close(descriptor)


class Resource:
    """Its notes go to a file that outlives the process."""

    def __init__(self, log: str, *args: object, **kwargs: object) -> None:
        self.log = log
        self.args = args
        self.kwargs = kwargs
        self.pid = os.getpid()
        self.note(OPEN)

    def note(self, event: str) -> None:
        """Write down an event, with the process it happens in and the one that opened."""
        append(self.log, f"{os.getpid()} {self.pid} {event}\n")

    def close(self) -> None:
        """Noted, no more."""
        self.note(CLOSED)

    def __del__(self, append=append, getpid=os.getpid) -> None:  # type: ignore[no-untyped-def]
        append(self.log, f"{getpid()} {self.pid} {DESTROYED}\n")


def finish(resource: Resource) -> None:
    """A close function that is not a method."""
    resource.note("finished")


def events(log: Path | str, *, foreign: bool = False) -> list[str]:
    """What happened, in order: to resources in the process that opened them, or to inherited ones."""
    lines = [line.split() for line in Path(log).read_text().splitlines()] if Path(log).exists() else []
    return [event for here, opener, event in lines if (here != opener) == foreign]


def openers(log: Path | str) -> list[int]:
    """The processes that opened one, in order."""
    return [int(line.split()[0]) for line in Path(log).read_text().splitlines() if line.endswith(OPEN)]
