"""The guard of a pid file: who holds it, and which file was made under it. Layer: above `content`."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from interlock import inspection
from interlock.abc import Liveness
from interlock.files.atomic import draft, write_all
from interlock.files.beside import space_of
from interlock.pidfile.content import Seen
from interlock.stores import open_store


def holding(path: str) -> Liveness | None:
    """Whether whoever holds the guard lives; None if nobody does. Takes nothing, and makes nothing."""
    status = inspection.look(open_store(space_of(path)), os.path.basename(path))
    if status.damage:
        return Liveness("unknown", f"its guard cannot be read: {status.damage}")
    return status.holders[0].life if status.holders else None


def sign(path: str, seen: Seen) -> None:
    """Write down that this file was made under the guard. The caller holds the guard."""
    record = _record(path)
    folder = os.path.dirname(record)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        os.chmod(folder, stat.S_IMODE(os.stat(os.path.dirname(folder)).st_mode))
    with draft(record, sync=False) as fd:
        write_all(fd, _mark(seen))


def signed(path: str, seen: Seen) -> bool:
    """Whether this file was made under the guard, as far as this user may know."""
    try:
        return Path(_record(path)).read_bytes() == _mark(seen)
    except OSError:
        return False


def _record(path: str) -> str:
    return os.path.join(space_of(path), "pidfiles", os.path.basename(path))


def _mark(seen: Seen) -> bytes:
    """What tells one making of the file from every other, also where numbers of inodes are not the same everywhere."""
    return b"%d %b" % (seen.mtime_ns, seen.raw)
