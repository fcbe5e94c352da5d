"""Many pid files at once: found, looked at, cleared. Layer: above `pidfile.file`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from interlock.abc import Liveness
from interlock.files.atomic import StrPath, resolve
from interlock.files.beside import lock_of
from interlock.pidfile.content import read
from interlock.pidfile.file import remove
from interlock.pidfile.verdict import judge, look

log = logging.getLogger("interlock")

NAME = ".training_lock"  # what is looked for in directories
SPACE = ".interlock"  # and where it is not: the scopes beside the files


def find(where: StrPath) -> Iterator[str]:
    """The paths of pid files, not looked at; see `survey`."""
    text = os.fsdecode(where)
    if os.path.isdir(text):
        for folder, folders, files in os.walk(text, onerror=lambda error: log.warning("not looked at: %s", error)):
            folders[:] = sorted(name for name in folders if not name.startswith(SPACE))
            if NAME in files:
                yield os.path.join(folder, NAME)
    elif os.path.lexists(text):
        yield text
    else:
        from glob import glob  # not at import: few programs search

        yield from sorted(path for path in glob(text, recursive=True) if not os.path.isdir(path))


def survey(where: StrPath) -> Iterator[tuple[str, Liveness]]:
    """Every pid file with its status, in the order of their paths. Takes nothing, and writes nothing.

    Args: where: a file; a directory, searched with all below it for files named ``.training_lock``; or a pattern, in
          which ``**`` stands for any number of directories.
    """
    for path in find(where):
        found = look(path)
        if found is not None:
            yield path, found


def clear(path: StrPath, *, force: bool = False) -> Liveness | None:
    """Remove a file that is STALE. It is judged under its guard, so that is safe beside those who take it meanwhile.

    Args:    force: also one that is UNKNOWN, never one that is ACTIVE. Whoever asks for it writes that down.
    Returns: what was removed. None: there is nothing to remove, or somebody has the guard.
    Raises:  OSError: the file cannot be removed, or its guard not be taken.
    Cost:    a look; for one that is removed also a lock.
    """
    target = resolve(os.fsdecode(path), follow=False)
    clearable = ("dead", "unknown") if force else ("dead",)
    life = look(target)
    if life is None or life.state not in clearable:
        return None
    grant = lock_of(target, 0).try_acquire()
    if grant is None:
        return None
    try:
        seen = read(target)
        life = judge(target, seen) if seen is not None else None
        if seen is None or life is None or life.state not in clearable:
            return None
        return life if remove(target, seen) else None
    finally:
        grant.release()
