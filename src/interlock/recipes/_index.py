"""Index: the ``.fai`` file of a FASTA, judged by the FASTA itself.

Dates decide nothing: copying a data set changes them, and an index of samtools is as good as one made here. An index
fits if its records lie end to end where it says, and are all there are.

Layer: a `Product`.
"""

from __future__ import annotations

import os
from typing import IO

import pyfaidx

from interlock.recipes._product import MISSING


class Index:
    """The index of a FASTA file, where pyfaidx and samtools look for it."""

    def __init__(self, fasta: str) -> None:
        self.fasta = fasta
        self.path = fasta + ".fai"

    def flaw(self, path: str) -> str | None:
        """What is wrong with it. Reads a few lines of each record."""
        if not os.path.exists(path):
            return MISSING
        with open(path, "rb") as lines, open(self.fasta, "rb") as bases:
            try:
                records = 0
                for line in lines:
                    _follow(line, bases)
                    records += 1
            except (ValueError, LookupError) as error:
                return f"damaged, or of another sequence ({error})"
            return None if records and not _next_line(bases) else "incomplete"

    def make(self, aside: str) -> None:
        """Build it from the FASTA."""
        pyfaidx.Faidx(self.fasta, indexname=aside).close()


def _follow(line: bytes, bases: IO[bytes]) -> None:
    """Go from where a record begins to where it ends, if both are where a line of the index says."""
    name, *numbers = line.rstrip(b"\n").split(b"\t")
    length, offset, width, step = map(int, numbers)
    header = _next_line(bases)
    if header[:1] != b">" or header[1:].split()[0] != name or bases.tell() != offset:
        raise ValueError(f"{name!r} does not begin at {offset}")
    if not length:
        return
    first = bases.readline()
    if len(first.rstrip(b"\r\n")) != width or (first.endswith(b"\n") and len(first) != step):
        raise ValueError(f"{name!r} has lines of another length")
    bases.seek(offset + (length - 1) // width * step + (length - 1) % width)
    if len(bases.readline().rstrip(b"\r\n")) != 1:
        raise ValueError(f"{name!r} does not end after {length} bases")


def _next_line(bases: IO[bytes]) -> bytes:
    """The next line that is neither blank nor a comment; nothing at the end."""
    return next((line for line in bases if line.strip() and not line.startswith(b";")), b"")
