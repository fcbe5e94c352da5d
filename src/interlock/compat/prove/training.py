"""The lock of one configuration: its name, its folder, and both of its locks. Layer: the bottom of `compat.prove`."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from interlock import inspection
from interlock.abc import Liveness
from interlock.errors import AcquireTimeout, RecordInvalid, Unavailable
from interlock.keys import key
from interlock.pidfile import PidFile, look
from interlock.session import connect

log = logging.getLogger("interlock")

DEFAULT_LOCK_DIR = "${AWARE_DATA_ROOT}/training_locks"
DEFAULT_WEIGHTS_DIR = "${AWARE_DATA_ROOT}/WEIGHTS"
LOCK_FILE = ".training_lock"


class Locked(AcquireTimeout, RuntimeError):
    """The configuration is being trained by somebody else. Definite."""


class TrainingLock:
    """Held by the one process that trains a configuration. It belongs to the process, whichever thread took it.

    Args:   strategy, dataset, model, ratio: the configuration; upper and lower case of the dataset are the same.
            lock_dir: the directory of the locks, the same for all; variables of the environment in it are expanded.
            weights_dir: the directory of the weights; where none is given and AWARE_DATA_ROOT is not set, there is no
            folder to watch.
    Raises: Unavailable: a directory names a variable that is not set (definite).
    """

    def __init__(
        self,
        strategy: str,
        dataset: str,
        model: str,
        ratio: float | None = None,
        lock_dir: str | os.PathLike[str] = DEFAULT_LOCK_DIR,
        *,
        weights_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.strategy, self.dataset, self.model = strategy, dataset.lower(), model
        self.ratio = None if ratio is None else float(ratio)
        self.name = key(strategy=strategy, dataset=self.dataset, model=model, ratio=self.ratio)
        self.reason = ""  # why the last `acquire` returned False
        self._session = connect(expanded(lock_dir))
        self._lock = self._session.lock(self.name)
        self._folders: list[str] = []
        if weights_dir is not None or os.environ.get("AWARE_DATA_ROOT"):
            root = expanded(DEFAULT_WEIGHTS_DIR if weights_dir is None else weights_dir)
            folder = os.path.join(root, strategy, f"{self.dataset}_cd", model)
            self._folders = [folder + suffix for suffix in _suffixes(self.ratio)]
        self._refusal: AcquireTimeout | None = None
        self._hold: ExitStack | None = None
        self._process = 0

    def __repr__(self) -> str:
        return f"<TrainingLock {self.name!r} in {self._session.url}>"

    @property
    def lock_file(self) -> str | None:
        """The path of its ``.training_lock``, where it has a folder."""
        return os.path.join(self._folders[0], LOCK_FILE) if self._folders else None

    def acquire(self, blocking: bool = False, timeout: float | None = 60) -> bool:
        """Take both locks, and make the folder of the weights if need be.

        Args:    blocking: wait, at most `timeout` seconds; but never for a script that trains under a rounded ratio.
        Returns: whether this process holds it now. If not, `reason` tells who does, where, and how that is known.
        Raises:  OSError, InterlockError: it could not be taken for another reason than its holder; nothing is held.
        Crash:   the next one takes it over; whatever scripts see stays until then, or until `clear`.
        """
        if self._held:
            return True
        limit = timeout if blocking else 0
        end = None if limit is None else time.monotonic() + limit
        with ExitStack() as undo:
            try:
                undo.callback(self._lock.acquire(limit).release)
                self._enter_folders(undo, end)
            except AcquireTimeout as late:
                if not late.position:
                    raise  # nobody was seen to hold it: its record could not be reached
                self._refusal, self.reason = late, str(late)
                log.warning("%s", late)
                return False
            self._hold, self._process = undo.pop_all(), os.getpid()
        return True

    def release(self) -> None:
        """Give both locks back; nothing happens if this process does not hold them, as in the original."""
        if self._held and self._hold is not None:
            hold, self._hold = self._hold, None
            hold.close()

    def is_locked(self) -> bool:
        """Whether another process holds it, or perhaps does. Takes nothing."""
        return any(life.state != "dead" and not _mine(life) for _, life, _ in self._holds())

    def get_lock_holder(self) -> dict[str, Any] | None:
        """Who holds it, or perhaps does: strategy, dataset, model, ratio, job_id, hostname, pid, user, acquired_at,
        lock_file, status and proof; None if it is free. Takes nothing."""
        for path, life, since in self._holds():
            if life.state != "dead":
                which = {"strategy": self.strategy, "dataset": self.dataset, "model": self.model, "ratio": self.ratio}
                return {**which, **facts(life, since), "lock_file": path}
        return None

    def __enter__(self) -> TrainingLock:
        if not self.acquire() and self._refusal is not None:
            raise Locked(self.reason, **vars(self._refusal)) from self._refusal
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def _held(self) -> bool:
        return self._hold is not None and self._process == os.getpid()

    def _enter_folders(self, undo: ExitStack, end: float | None) -> None:
        """Make the lock file in the folder, and look for one of a script that rounds the ratio."""
        for folder in self._folders[1:]:
            path = os.path.join(folder, LOCK_FILE)
            life = look(path)
            if life is not None and life.state != "dead" and _made_by_script(life):
                text = f"{path}, which is that of the rounded ratio, is {life.status}: {life.proof}"
                raise AcquireTimeout(text, name=path, holders=(life.holder,) if life.holder else (), position=1)
        for folder in self._folders[:1]:
            os.makedirs(folder, exist_ok=True)
            file = PidFile(os.path.join(folder, LOCK_FILE))
            file.acquire(None if end is None else max(0.0, end - time.monotonic()))
            undo.callback(file.release)

    def _holds(self) -> Iterator[tuple[str, Liveness, float]]:
        """Where somebody holds it, who, and since when."""
        store = self._session.store
        status = inspection.look(store, self.name)
        if status.damage:
            raise RecordInvalid(f"the record of {self!r} is damaged: {status.damage}", name=self.name, scope=store.url)
        for part in status.holders:
            yield store.url, part.life, part.since
        for folder in self._folders:
            path = os.path.join(folder, LOCK_FILE)
            life = look(path)
            if life is not None and (folder == self._folders[0] or _made_by_script(life)):
                yield path, life, life.holder.since if life.holder else 0.0


def expanded(path: str | os.PathLike[str]) -> str:
    """A directory, with the variables of the environment in its path. Raises `Unavailable` for one that is not set."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise Unavailable(
                f"{os.fspath(path)}: the environment variable {name} is not set; set it, or give the path"
            )
        return os.environ[name]

    return os.path.abspath(os.path.expanduser(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, os.fspath(path))))


def facts(life: Liveness, since: float) -> dict[str, Any]:
    """What is known of a holder, under the names that the original gave it."""
    from datetime import datetime  # not at import: who only takes locks needs none

    holder = life.holder
    began = since or (holder.since if holder else 0.0)
    return {
        "job_id": (holder and holder.job_id) or "unknown",
        "hostname": holder.host if holder else "unknown",
        "pid": (holder and holder.pid) or None,
        "user": (holder and holder.user) or "unknown",
        "acquired_at": datetime.fromtimestamp(began).isoformat() if began else "unknown",
        "status": life.status,
        "proof": life.proof,
    }


def _suffixes(ratio: float | None) -> list[str]:
    """What the ratio adds to the name of the folder: exactly, and as scripts round it, if that is something else."""
    if ratio is None:
        return [""]
    rounded = f"{ratio:.2f}"
    exact = rounded if float(rounded) == ratio else repr(ratio)
    return [f"_ratio{text.replace('.', 'p')}" for text in dict.fromkeys((exact, rounded))]


def _mine(life: Liveness) -> bool:
    return life.holder is not None and life.holder.pid == os.getpid() and life.holder.same_machine()


def _made_by_script(life: Liveness) -> bool:
    """A holder that tells its boot is one of ours, whose lock of a rounded ratio is for that ratio alone."""
    return life.holder is None or not life.holder.boot_id
