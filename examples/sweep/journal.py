"""What happened in the sweep, in one file that every process appends to: the evidence the verdict rests on.

Nothing here comes from interlock. A line is one `write` to a file opened with O_APPEND, so lines of different processes
neither mix nor get lost; times are CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"


def note(directory: Path, event: str, **fields: Any) -> None:
    """Append one event, with the time and the process it happened in."""
    line = json.dumps({"event": event, "at": time.monotonic(), "pid": os.getpid(), **fields}) + "\n"
    fd = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        written = os.write(fd, line.encode())
    finally:
        os.close(fd)
    if written != len(line):
        raise OSError(f"only {written} of {len(line)} bytes went into {directory / NAME}")


def read(directory: Path) -> list[dict[str, Any]]:
    """Every event so far, in the order of the file. Raises `ValueError` for a line that is not one."""
    try:
        text = (directory / NAME).read_text()
    except FileNotFoundError:
        return []
    complete, _, _being_written = text.rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]
