"""`FileLockHelper` of torchcell: JSON files that many processes read, write and update, with a lock for each.

    from interlock.compat.torchcell import FileLockHelper  # was: from torchcell.utils.file_lock import ...

Every process must change the import: the locks here and those of the original know nothing of each other. What a
caller may notice:

- A lock not obtained raises `interlock.AcquireTimeout`, which names the holder. It is not a ``filelock.Timeout``, but
  both are a `TimeoutError`: write ``except TimeoutError``.
- Reads take no lock: they wait for nobody, need no permission to write, and see the last finished write.
- ``timeout=0`` tries once, None means `default_timeout`, and less than 0 waits for ever, as in filelock.
- ``retry_delay`` is accepted and unused: nothing polls, who waits is woken.
- A thread that locks what it has locked already gets `interlock.Deadlock` at once, where filelock waits or counts.
- An `update_func` that returns None, having perhaps forgotten its ``return``, raises TypeError; nothing is written.

The lock of ``x.json`` is in ``.interlock`` beside it. ``x.json.lock`` is a marker that shows people there is one; as
nothing is locked on it, its removal frees nothing, and exclusion never depends on it.

Layer: above `files`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from interlock.errors import InterlockError
from interlock.files import JsonFile, atomic_write

log = logging.getLogger(__name__)

_MARKER = "interlock: nothing is locked on this file. The lock of its namesake is in .interlock beside that.\n"


class FileLockHelper:
    """JSON files that many processes change one at a time, in order of arrival, and read at any time."""

    default_timeout: float = 60.0
    default_retry_delay: float = 0.1

    @classmethod
    def read_json_with_lock(
        cls,
        file_path: str | Path,
        timeout: float | None = None,
        retry_delay: float | None = None,
        create_if_missing: bool = False,
        default_data: Any = None,
    ) -> Any:
        """The document as it is now, without a lock; one is taken only to create a missing file.

        Args:   default_data: what a file that `create_if_missing` makes holds, ``{}`` for None; never changed.
        Raises: FileNotFoundError: no file, and none is to be made. json.JSONDecodeError: damaged.
        """
        try:
            return JsonFile(file_path).read()
        except FileNotFoundError:
            if not create_if_missing:
                raise
        return cls.update_json_with_lock(file_path, lambda data: data, timeout, default_data=default_data)

    @classmethod
    def write_json_with_lock(
        cls,
        file_path: str | Path,
        data: Any,
        timeout: float | None = None,
        retry_delay: float | None = None,
        indent: int | None = 2,
        ensure_ascii: bool = False,
    ) -> None:
        """Replace the document, and make its directory if need be.

        Raises: AcquireTimeout: not written; names who is writing (definite). TypeError: not JSON, nothing written.
        """
        limit = _limit(timeout, cls.default_timeout)
        JsonFile(_placed(file_path), timeout=limit, indent=indent, ensure_ascii=ensure_ascii).write(data)

    @classmethod
    def update_json_with_lock(
        cls,
        file_path: str | Path,
        update_func: Callable[[Any], Any],
        timeout: float | None = None,
        retry_delay: float | None = None,
        create_if_missing: bool = True,
        default_data: Any = None,
    ) -> Any:
        """Read, change and write the document with nobody else's write in between.

        Args:    update_func: gets the document, or a copy of `default_data` (``{}`` for None) if there is none and
                 `create_if_missing`; returns the new one. It runs under the lock, once.
        Returns: what `update_func` returned.
        Raises:  AcquireTimeout, Deadlock, TypeError, FileNotFoundError, json.JSONDecodeError, and whatever
                 `update_func` raises; in every case nothing was written.
        Crash:   a writer that dies has written all or nothing, and the next in the row goes on.
        """
        default = ... if not create_if_missing else {} if default_data is None else default_data
        limit, path = _limit(timeout, cls.default_timeout), _placed(file_path, create_if_missing)
        return JsonFile(path, timeout=limit, indent=2, ensure_ascii=False).update(update_func, default)

    @classmethod
    def with_file_lock(cls, file_path: str | Path, timeout: float | None = None) -> FileLock:
        """The lock that the writers of this file take, for changes of any other kind."""
        return FileLock(_placed(file_path), _limit(timeout, cls.default_timeout))

    @classmethod
    def cleanup_lock_files(cls, directory: str | Path) -> int:
        """Remove the markers in a directory and below, safe at any time; returns how many.

        Those of locks that are held stay, which the log tells, and so does every ``.lock`` file that is not a marker.
        The locks themselves are cleared by ``interlock clear``.

        Cost: each marker's lock is held for a moment.
        """
        return sum(_unmark(path) for path in Path(directory).rglob("*.lock") if path.is_file())


class FileLock:
    """What callers use of filelock's lock, on the lock of an interlock document. Belongs to the thread that acquires.

    ``with lock:`` and ``with lock.acquire(timeout=5):`` both release at the end; `acquire` alone does not.
    """

    def __init__(self, path: str, timeout: float | None) -> None:
        self.timeout = timeout
        self._lock = JsonFile(path, timeout=timeout).lock

    def acquire(self, timeout: float | None = None) -> AbstractContextManager[FileLock]:
        """Take the lock; None means the lock's own timeout. Raises AcquireTimeout, Deadlock (definite)."""
        self._lock.acquire(_limit(timeout, self.timeout))
        return self._held()

    def release(self) -> None:
        """Give the lock back; nothing happens if this thread does not hold it, as in filelock."""
        if self.is_locked:
            self._lock.release()

    @property
    def is_locked(self) -> bool:
        """Whether this thread holds it."""
        return self._lock.held

    @contextmanager
    def _held(self) -> Iterator[FileLock]:
        try:
            yield self
        finally:
            self.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _limit(timeout: float | None, default: float | None) -> float | None:
    chosen = default if timeout is None else timeout
    return None if chosen is None or chosen < 0 else chosen


def _placed(file_path: str | Path, create: bool = True) -> str:
    """The path as text, once its directory and its marker are there; the marker is a courtesy and may fail."""
    path = os.fspath(file_path)
    if create:
        os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
    marker = f"{path}.lock"
    if not os.path.lexists(marker):
        with suppress(OSError), atomic_write(marker, "x", sync=False) as file:
            file.write(_MARKER)
    return path


def _unmark(marker: Path) -> bool:
    """Remove a file if it is one of our markers, while its lock is held here, so never under another holder."""
    try:
        if marker.read_bytes() != _MARKER.encode():
            return False
        with JsonFile(str(marker).removesuffix(".lock"), timeout=0).lock:
            marker.unlink()
    except (OSError, InterlockError) as error:
        log.warning("%s stays: %s", marker, error)
        return False
    return True
