"""What lies at the path of a pid file, and what it says. Layer: the bottom of `pidfile`.

Shells and old programs write a pid; a pid and a host in any order; lines of ``key=value`` or ``key: value``; or an
object of JSON. Anything else is not guessed at.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from interlock.holder import TEXT_LIMIT, Holder

UNNAMED = "unknown"  # the host of a file that names none, as programs write it that do not know theirs
_LIMIT_BYTES = 4096
_HIGHEST_PID = 1 << 22
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_HOST = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,252}|[0-9]+(\.[0-9]+){3}")
_PAIR = re.compile(r"\s*([A-Za-z_]+)\s*[=:]\s*(.*?)\s*")
_JOB = re.compile(r"([0-9]+)(?:_([0-9]+)|\[([0-9]+)\])?")
_MEANING = {
    **dict.fromkeys(("host", "hostname", "node"), "host"),
    **dict.fromkeys(("started", "acquired_at"), "since"),
    **dict.fromkeys(("job_id", "jobid", "lsb_jobid", "slurm_job_id", "slurm_jobid"), "job"),
    **dict.fromkeys(("pid", "user"), ""),
}


class Seen(NamedTuple):
    """A file as it was found; two that are equal are one file with one content. `wrong` is why it was not read."""

    inode: int
    mtime_ns: int
    raw: bytes = b""
    wrong: str = ""

    @property
    def made(self) -> float:
        """When it was written, in wall-clock seconds of whoever keeps the file system."""
        return self.mtime_ns / 1e9


def read(path: str) -> Seen | None:
    """The file as it is now; None if there is none."""
    try:
        fd = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return _unread(path, error.strerror or str(error))
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return _unread(path, "it is not a regular file")
        return Seen(found.st_ino, found.st_mtime_ns, os.read(fd, _LIMIT_BYTES))
    except OSError as error:
        return _unread(path, error.strerror or str(error))
    finally:
        os.close(fd)


def _unread(path: str, why: str) -> Seen | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        why = "it is a symbolic link"
    return Seen(found.st_ino, found.st_mtime_ns, wrong=f"it was not read: {why}")


def understand(seen: Seen) -> Holder:
    """Who the file says its holder is: its pid is 0 and its host `UNNAMED` where it tells none.

    Raises:  ValueError: it cannot be understood, and why.
    """
    try:
        facts = _facts(seen.raw.decode().strip())
        return _holder(facts, seen.made)
    except (ValueError, RecursionError) as error:
        why = f": {error}" if type(error) is ValueError else ""
        raise ValueError(f"its content cannot be understood{why}: {ascii(seen.raw[:40])[1:]}") from None


def _facts(text: str) -> dict[str, str]:
    """What it says under each of the keys we know."""
    if text.startswith("{"):
        return _known(json.loads(text).items())
    parts = [_PAIR.fullmatch(part) for part in re.split(r"[\n,;]+", text) if part.strip()]
    pairs = [(part[1], part[2]) for part in parts if part is not None]
    if len(pairs) == len(parts) and any(key.lower() in _MEANING for key, _ in pairs):
        return _known(pairs)
    words = re.split(r"[\s@:]+", text) if text else []
    pids = [word for word in words if word.isdecimal()]
    hosts = [word for word in words if not word.isdecimal()]
    if words and (len(pids) != 1 or len(hosts) > 1):
        raise ValueError("it is not a pid, nor a pid and a host")
    return dict(zip(("pid", "host"), pids + hosts, strict=False))


def _known(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for written, value in pairs:
        key = written.lower()
        if key not in _MEANING or value is None or str(value).lower() in ("", UNNAMED):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"its {key} is not a text or a number")
        facts[_MEANING[key] or key] = str(value).strip()
        if key == "lsb_jobid":
            facts["scheduler"] = "lsf"
    return facts


def _holder(facts: dict[str, str], made: float) -> Holder:
    pid, host = facts.get("pid", "0"), facts.get("host", UNNAMED)
    if not re.fullmatch("[0-9]{1,7}", pid) or int(pid) > _HIGHEST_PID or ("pid" in facts and not int(pid)):
        raise ValueError(f"no process has the pid {pid[:20]!a}")
    if not _HOST.fullmatch(host):
        raise ValueError(f"no host has the name {host[:20]!a}")
    written = facts.get("job")
    job = _JOB.fullmatch(written or "")
    index = job and (job[2] or job[3])
    return Holder(
        host=UNNAMED if host == "localhost" else host,
        pid=int(pid),
        user=facts.get("user", "")[:TEXT_LIMIT],
        scheduler=facts.get("scheduler"),  # not Slurm's: that would claim to know how often the job was restarted
        job_id=job[1] if job is not None else written and written[:TEXT_LIMIT],
        array_index=int(index) if index else None,
        since=_clock(facts.get("since", ""), made),
    )


def _clock(text: str, made: float) -> float:
    """The wall-clock seconds in a text, else those at which the file was made; 0 for what can be no time."""
    from datetime import datetime  # not at import: few programs read such files

    seconds = made
    with suppress(ValueError, OverflowError):
        seconds = datetime.fromisoformat(text).timestamp()
    with suppress(ValueError):
        seconds = float(text)
    return seconds if 0 <= seconds < 1e11 else 0.0
