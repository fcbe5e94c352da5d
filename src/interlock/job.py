"""job://: a scope of one run of one job, which its ranks share and nobody else, and in which a dead rank is missed even
if it died before anybody met it.

Where it is: ranks of one node meet in memory (``/dev/shm``, else the temporary directory), ranks of several nodes in a
directory all of them see ($INTERLOCK_URL, else the user's state directory). It is removed when all ranks have come and
all have ended, by the last one, or by the next run. Otherwise a later run removes it a day after it was last written,
if nobody lives there.

Which run it is: what the launcher tells (`world.run_name`); where it tells nothing, ranks of one node are one run if
they have one parent process, or one `multiprocessing` family. Where that may be a run that cannot be told from an
earlier one, of the same shell or family or in the same job, a rank's death counts only if it connected after this
process began, and what ranks left behind counts only while one of them lives (`Session.lasting`).

Who lives: each rank's process holds one session in the scope's ``ranks``, from its first connection until it ends,
however it ends, and leaves the session's file there. So the kernel's word on a rank does not depend on what the rank
has done so far.

Layer: above the stores; `session` opens it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from interlock.abc import Liveness, Store
from interlock.errors import Unavailable
from interlock.holder import Holder
from interlock.stores import default_url, open_store
from interlock.world import job, run_name, world

SWEEP_S = 86400.0  # how long a run's scope lies unused before a later run removes it
SCAN_S = 1.0  # how long what was seen of all ranks is believed; longer where looking takes long
_SHARE = 20  # at most this part of the time is spent looking at the ranks
_MEMORY = "/dev/shm"
_ROOM_BYTES = 2**30  # containers often have 64 MB there
_RESTART = "TORCHELASTIC_RESTART_COUNT"
_AGENTS = (_RESTART, "PMI_RANK")  # set by launchers whose parent process serves one run


class Run(NamedTuple):
    """This process's run: its name, whether no other run can have it, and whether it is on one node."""

    name: str
    unique: bool
    local: bool


def this_run(size: int | None = None) -> Run:
    """The run this process belongs to; `size` is the number of ranks, where the user gave it.

    Raises: Unavailable: its ranks are on several nodes and nothing tells the run apart (definite).
    """
    place, told, belongs = world(), run_name(), job()
    launched = place.size > 1 and size in (None, place.size)
    local = place.local_size == place.size or not launched
    if told is not None:
        # torchrun counts restarts on each node for itself, so those of several nodes find each other without the count.
        restart = os.environ.get(_RESTART) if local else None
        final = local or os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0"
        return Run(f"{belongs} {told} {restart}", final, local)
    if not launched:
        from multiprocessing import current_process

        return Run(f"family {blake2b(current_process().authkey, digest_size=16).hexdigest()}", False, True)
    if local:
        parent = os.getppid()
        own = any(name in os.environ for name in _AGENTS)
        return Run(f"child of {parent} {_start_of(parent)} {os.environ.get(_RESTART)}", own, True)
    if belongs is None:
        raise Unavailable(
            f"job://: nothing tells this run of {place.size} ranks on several nodes from another one: set "
            "INTERLOCK_RUN to one text for all of them (torchrun: give --rdzv-id)",
            scope="job://",
        )
    return Run(f"{belongs} {belongs.cluster} {belongs.restart}", False, False)


def scope(run: Run) -> str:
    """The URL of the run's scope; sweeps what older runs left beside it."""
    digest = blake2b(run.name.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    home = _private_directory().as_uri() if run.local else default_url()
    url = below(below(home, "jobs"), digest)
    if url.startswith("file://"):
        path = Path(unquote(urlsplit(url).path))
        if path.parent.is_dir() and not path.exists():
            sweep(path.parent)
    return url


def below(url: str, part: str) -> str:
    """The scope of a part of another scope, with the same options."""
    head, mark, options = url.partition("?")
    return f"{head.rstrip('/')}/{part}{mark}{options}"


def _private_directory() -> Path:
    """A directory of this user's own in memory, or where temporary files are."""
    path = Path(_MEMORY if _roomy(_MEMORY) else tempfile.gettempdir(), f"interlock-{os.geteuid()}")
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Unavailable(f"{path} is not a directory that only this user can write; remove it", scope="job://")
    return path


def _roomy(path: str) -> bool:
    """Whether large results fit too; by its size, not by what is free, so that all ranks come to one answer."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK) and found.f_blocks * found.f_frsize >= _ROOM_BYTES


def sweep(base: Path) -> None:
    """Remove the scopes of runs that ended."""
    for old in base.iterdir():
        with suppress(Exception):  # whatever cannot be judged stays
            if (_over(old.as_uri()) or time.time() - _touched(old) > SWEEP_S) and not _inhabited(old):
                shutil.rmtree(old)


def _over(url: str) -> bool:
    """Whether all ranks of a run have come and ended."""
    store = open_store(below(url, "ranks"))
    lives = [store.alive(session) for session in store.sessions()]
    ranks = {life.holder.rank for life in lives if life.holder is not None}
    sizes = {life.holder.size or 0 for life in lives if life.holder is not None}
    return bool(sizes) and ranks >= set(range(max(sizes))) and all(life.state == "dead" for life in lives)


def _touched(path: Path) -> float:
    return max(found.lstat().st_mtime for found in (path, *path.rglob("*")))


def _inhabited(path: Path) -> bool:
    stores = [open_store(url) for url in (path.as_uri(), below(path.as_uri(), "ranks"))]
    return any(store.alive(session).state != "dead" for store in stores for session in store.sessions())


class Roster:
    """The ranks of a run as far as they have connected, and whether they live."""

    def __init__(self, url: str, unique: bool) -> None:
        self._url = url
        self.unique = unique
        self._store: Store = open_store(below(url, "ranks"))
        self._born = 0.0 if unique else _born()
        self._me: str | None = None
        self._joining = threading.Lock()
        self._seen: dict[str, list[Liveness]] = {}
        self._believed_until = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return roster, (self._url, self.unique)

    def join(self, holder: Holder) -> None:
        """Be known as a rank until this process ends. Once is enough in a process."""
        with self._joining:
            if self._me is None:
                self._me = self._store.open_session(holder, 0)

    def leave(self) -> None:
        """End in good order: be known as one who ended, and if all have, remove the scope."""
        with self._joining:
            if self._me is not None:
                self._store.close_session(self._me, forget=False)
                path = Path(unquote(urlsplit(self._url).path))
                if self._url.startswith("file://") and _over(self._url) and not _inhabited(path):
                    shutil.rmtree(path)

    def alive(self, label: str) -> Liveness:
        """Whether a rank lives: dead only if every process that was known as it has ended.

        Args: label: the rank, or the node's name and the rank on the node with a slash between.
        """
        if time.monotonic() >= self._believed_until:
            self._look()
        lives = self._seen.get(label, [])
        if not lives:
            return Liveness("unknown", f"rank {label} has not connected yet")
        return next((life for life in lives if life.state != "dead"), lives[-1])

    def _look(self) -> None:
        began, seen = time.monotonic(), dict[str, list[Liveness]]()
        for session in self._store.sessions():
            life = self._store.alive(session)
            holder = life.holder
            if holder is not None and holder.rank is not None and holder.since >= self._born:
                known = life._replace(holder=dataclasses.replace(holder, note=""))
                for label in (str(holder.rank), holder.note):
                    seen.setdefault(label, []).append(known)
        now = time.monotonic()
        self._seen, self._believed_until = seen, now + max(SCAN_S, _SHARE * (now - began))


_rosters: dict[str, Roster] = {}


def roster(url: str, unique: bool) -> Roster:
    """The one roster of this process for a scope."""
    return _rosters.get(url) or _rosters.setdefault(url, Roster(url, unique))


def leave_runs() -> None:
    """Have this process, which ends, leave its runs."""
    for members in list(_rosters.values()):
        with suppress(Exception):  # what stays behind is swept later
            members.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rosters.clear)  # a child that connects is somebody else


def _start_of(pid: int) -> str:
    """When a process began, in ticks since boot, so that a pid used again is another one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _born() -> float:
    """The wall clock at which this process began, or now."""
    start = _start_of(os.getpid())
    if not start:
        return time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(start) / os.sysconf("SC_CLK_TCK")
    return time.time() - age
