"""The locks of files, beside the files: in ``.interlock`` of the same directory.

Every process on every host that sees a file finds the same lock, whatever path it knows the file by.
Layer: above `session`.
"""

from __future__ import annotations

import os
import stat
from urllib.parse import quote

from interlock.files.atomic import regular
from interlock.objects import Lock
from interlock.session import Session, shared

_OPEN_SPACES = 32  # directories whose locks a process keeps at hand

_sessions: dict[str | None, Session] = {}


def lock_of(target: str, timeout: float | None, scope: str | None = None) -> Lock:
    """The lock of a file: of its name beside it, or of its whole path in a scope that knows of no directory."""
    if scope is not None:
        return session_of(scope).lock(target, timeout=timeout)
    return beside(target).lock(os.path.basename(target), timeout=timeout)


def beside(target: str) -> Session:
    """This process's session in the scope beside a file."""
    return session_of("file://" + quote(os.fsencode(space_of(target))))


def space_of(target: str) -> str:
    """The directory of the locks and tokens of a file.

    In a sticky directory such as ``/tmp`` only its owner can replace a file, so each owner has a space there, and
    users who have nothing to do with each other do not meet.
    """
    directory = os.path.dirname(target)
    space = os.path.join(directory, ".interlock")
    if os.stat(directory).st_mode & stat.S_ISVTX:
        old = regular(target)
        space += f"-{os.geteuid() if old is None else old.st_uid}"
    return space


def session_of(url: str) -> Session:
    """This process's session in a space."""
    session = shared(_sessions, url)
    for old in list(_sessions)[:-_OPEN_SPACES]:
        if _sessions[old].idle and old != url:
            _sessions.pop(old, None)
    return session
