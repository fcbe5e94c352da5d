"""Holder: who a participant is, in words for people and in facts that prove its death.

Why it exists: everyone who waits wants to know for whom, and a dead holder must be told from a slow one without a
guess. Host names and pids prove nothing: two machines share a name, pids are reused, containers number theirs anew.
What proves is where a pid is counted (boot id and pid namespace) and when its process began.

1. ``dead`` is said on proof only: the kernel denies the pid, it is a zombie, or its process began at another time.
2. Whatever cannot be compared is ``unknown``: another boot, another pid namespace, a `/proc` that shows others' pids or
   hides them, a clock that a time namespace shifts.
3. Nothing is cached, so nothing is wrong after a fork. Reading it all takes some 50 microseconds.
4. What was read back is not trusted: `from_json` raises `ValueError` or gives a well-formed holder, and `describe`
   prints no control character.

Layer: above `world`, below the stores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from interlock.world import Job, job, job_node, world

TEXT_LIMIT = 400  # characters of a text that is published, and of all arguments together
ARGS_LIMIT = 20  # arguments that are published
COMMAND_LIMIT = 80  # characters of the command that a description shows


class Life(NamedTuple):
    """What is known about a process, with the proof in words."""

    state: Literal["alive", "dead", "unknown"]
    proof: str


class Process(NamedTuple):
    """A line of /proc: the state letter, the start in clock ticks since boot, and the threads that are left."""

    state: str
    start: int
    threads: int


@dataclass(frozen=True, slots=True)
class Holder:
    """One participant. Whatever is not known about it has its default.

    `start` is in clock ticks since boot; `pid_ns` numbers the pid namespace; `node` is the scheduler's name for the
    host; `rank` is None outside a parallel job; `since` is the wall clock, in seconds, when the session began. The
    arguments are published as the shell got them, to everyone who may read the store: as with `ps`, a secret does not
    belong on a command line.
    """

    host: str
    pid: int
    user: str = ""
    start: int = 0
    boot_id: str = ""
    pid_ns: str = ""
    scheduler: str | None = None
    job_id: str | None = None
    array_index: int | None = None
    restart: int = 0
    cluster: str = ""
    node: str = ""
    rank: int | None = None
    size: int | None = None
    argv: tuple[str, ...] = ()
    cwd: str = ""
    note: str = ""
    since: float = 0.0

    @classmethod
    def here(cls, *, rank: int | None = None, size: int | None = None, note: str = "") -> Holder:
        """The present process, now. Without a rank, its launcher's, if it was launched with others.

        Raises:  ValueError: a launcher's or scheduler's variable is malformed.
        """
        if rank is None and size is None and (place := world()).size > 1:
            rank, size = place.rank, place.size
        scheduler, job_id, array_index, restart, cluster = job() or (None, None, None, 0, "")
        return cls(
            host=os.uname().nodename,
            pid=os.getpid(),
            user=_user(),
            start=_start(),
            boot_id=_boot_id(),
            pid_ns=_pid_ns(),
            scheduler=scheduler,
            job_id=job_id and _clip(job_id),
            array_index=array_index,
            restart=restart,
            cluster=_clip(cluster),
            node=_clip(job_node()),
            rank=rank,
            size=size,
            argv=_bounded(sys.orig_argv),
            cwd=_cwd(),
            note=_clip(note),
            since=time.time(),
        )

    @property
    def job(self) -> Job | None:
        """The scheduler's job it belongs to."""
        if not self.scheduler or not self.job_id:
            return None
        return Job(self.scheduler, self.job_id, self.array_index, self.restart, self.cluster)

    def to_json(self) -> str:
        """One line of ASCII with everything that is known."""
        known = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return json.dumps(known)

    @classmethod
    def from_json(cls, text: str) -> Holder:
        """The holder that `to_json` wrote, here or in a later version: members we do not know are passed over.

        Raises:  ValueError: it is anything else.
        """
        try:
            found = json.loads(text)
        except RecursionError:
            raise ValueError("a holder is not that deep") from None
        if not isinstance(found, dict) or not {"host", "pid"} <= set(found):
            raise ValueError("a holder is an object with a host and a pid")
        return cls(**{f.name: _SHAPES[str(f.type)](found[f.name], f.name) for f in fields(cls) if f.name in found})

    def describe(self, now: float | None = None) -> str:
        """Who it is, in a person's words; `now` is the wall clock, in seconds.

        ``ada@node7 pid 4121 (python train.py --lr 0.1), Slurm job 812_3, rank 2 of 8, since 09:12:44 (3 min 20 s)``
        """
        command = " ".join((os.path.basename(self.argv[0]), *self.argv[1:])) if self.argv else ""
        parts = [
            (f"{self.user}@" if self.user else "") + f"{self.host} pid {self.pid}",
            str(self.job or ""),
            "" if self.rank is None else f"rank {self.rank}" + (f" of {self.size}" if self.size else ""),
            _since(self.since, time.time() if now is None else now),
            f"note: {self.note}" if self.note else "",
        ]
        if command:
            parts[0] += f" ({_clip(command, COMMAND_LIMIT)})"
        return plain(", ".join(filter(None, parts)))

    def same_machine(self) -> bool:
        """Whether its pid means the same process here: one boot of one machine, one pid namespace."""
        return bool(self.boot_id and self.pid_ns) and (self.boot_id, self.pid_ns) == (_boot_id(), _pid_ns())

    def process_state(self) -> Life:
        """Whether its process lives, judged from here by boot id, pid namespace, pid and start time."""
        if not self.same_machine():
            return Life("unknown", plain(self._elsewhere()))
        if not _exists(self.pid):
            return Life("dead", f"there is no process {self.pid}")
        found = process(self.pid)
        if found is None and not _exists(self.pid):
            return Life("dead", f"process {self.pid} has just ended")
        if found is None or not self.start:
            return Life("unknown", f"a process {self.pid} runs, but /proc does not tell whether it is the same one")
        if found.start != self.start:
            return Life("dead", f"pid {self.pid} has been reused: its process began at another time")
        if found.state in "ZXx" and found.threads <= 1:
            return Life("dead", f"process {self.pid} has ended and waits for its parent (state {found.state})")
        return Life("alive", f"process {self.pid} runs (state {found.state})")

    def _elsewhere(self) -> str:
        """Why its pid says nothing here."""
        if not self.boot_id or not self.pid_ns:
            return f"{self.host} does not tell its boot id or pid namespace"
        if not _boot_id() or not _pid_ns():
            return "this system does not tell its boot id or pid namespace"
        if self.boot_id == _boot_id():
            return f"it runs in another pid namespace (a container) of this machine, on {self.host}"
        here = os.uname().nodename
        if self.host == here:
            return f"{here} has another boot id: it was rebooted, or two machines share that name"
        return f"it runs on {self.host}, this is {here}"


def span(seconds: float) -> str:
    """A duration for people: ``850 ms``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 days``."""
    if seconds < 0 or not math.isfinite(seconds):
        return f"{seconds:.0f} s"
    if 0 < round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} days"


def _since(since: float, now: float) -> str:
    if not since:
        return ""
    began, today = time.localtime(since), time.localtime(now)
    form = "%H:%M:%S" if began[:3] == today[:3] else "%Y-%m-%d %H:%M:%S"
    return f"since {time.strftime(form, began)}" + (f" ({span(now - since)})" if now >= since else "")


def plain(text: str) -> str:
    """The text with every character escaped that a terminal would act on instead of showing it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _clip(text: str, limit: int = TEXT_LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _bounded(args: Sequence[str]) -> tuple[str, ...]:
    """The first arguments, as many as the limits allow; an ellipsis stands for what is cut off."""
    kept: list[str] = []
    room = TEXT_LIMIT
    for arg in args[:ARGS_LIMIT]:
        if not room:
            break
        kept.append(_clip(arg, room))
        room -= len(kept[-1])
    return tuple(kept) if len(kept) == len(args) else (*kept[:-1], "…")


def _user() -> str:
    """The login name, from the environment if it is there: the account database may be a slow directory server."""
    name = os.environ.get("LOGNAME") or os.environ.get("USER")
    if name:
        return _clip(name)
    import pwd

    try:
        return _clip(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return str(os.getuid())


def _cwd() -> str:
    try:
        return _clip(os.getcwd())
    except OSError:  # the directory was removed under us
        return ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()


def _pid_ns() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _start() -> int:
    """When this process began; 0 if that is not known, or means nothing to processes of another time namespace."""
    found = _stat("self")
    return found.start if found and not _shifted() else 0


def _shifted() -> bool:
    """A time namespace can shift the start times that /proc shows to its members."""
    return not set(_read("/proc/self/timens_offsets").split()) <= {b"monotonic", b"boottime", b"0"}


def running(pid: int) -> Life:
    """Whether a process of this host and pid namespace runs, in whatever state but that of a zombie."""
    found = process(pid)
    start = found.start if found is not None else 0
    return Holder("", pid, start=start, boot_id=_boot_id(), pid_ns=_pid_ns()).process_state()


def process(pid: int) -> Process | None:
    """What /proc says about a pid; None if it does not, or shows another pid namespace or shifted times."""
    try:
        ours = os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return None
    return _stat(str(pid)) if ours and not _shifted() else None


def _exists(pid: int) -> bool:
    """The kernel's own answer: it counts as this process does, whatever /proc is mounted, and hides nobody."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _stat(pid: str) -> Process | None:
    line = _read(f"/proc/{pid}/stat")
    found = line.rpartition(b")")[2].split()  # the command's name before it may hold spaces and parentheses
    return Process(found[0].decode(), int(found[19]), int(found[17])) if len(found) > 19 else None


def _text(value: Any, name: str) -> str:
    if type(value) is not str or len(value) > TEXT_LIMIT:
        raise ValueError(f"{name} is not a text of at most {TEXT_LIMIT} characters")
    return value


def _count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} is not a whole number")
    return value


def _clock(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e11:
        raise ValueError(f"{name} is not a time")
    return float(value)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if type(value) is not list or len(value) > ARGS_LIMIT:
        raise ValueError(f"{name} is not a list of at most {ARGS_LIMIT} texts")
    return tuple(_text(item, name) for item in value)


_SHAPES: dict[str, Callable[[Any, str], Any]] = {
    "str": _text,
    "str | None": lambda value, name: None if value is None else _text(value, name),
    "int": _count,
    "int | None": lambda value, name: None if value is None else _count(value, name),
    "float": _clock,
    "tuple[str, ...]": _texts,
}
