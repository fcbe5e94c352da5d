"""Tells where a process stands: ``python -m launchers.place JOURNAL``, to be launched by anything."""

from __future__ import annotations

import sys

import interlock
from launchers.journal import Journal


def main(journal: str, *, rank: int | None = None, size: int | None = None) -> None:
    """Write down this process's world, how others see it, and its place in a session of the rank and size given."""
    here = interlock.Holder.here()
    session = interlock.connect("memory://place", rank=rank, size=size)
    Journal(journal).add(
        "place",
        world=interlock.world(),
        holder=[here.rank, here.size],
        job=here.job,
        session=[session.rank, session.size, session.holder.rank, session.holder.size],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
