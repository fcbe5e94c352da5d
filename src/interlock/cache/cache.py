"""The cache as users hold it: values by key, and what people want to know of them. Layer: above the rest of `cache`."""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from interlock import codecs, entries, values
from interlock.cache.computation import MISSING, Computation, Failure
from interlock.cache.eviction import FRESH_S, Limit, touch
from interlock.cache.kept import Kept
from interlock.cache.shards import Damaged, Listed, Shards
from interlock.codecs import Encoded
from interlock.entries import Damage, Entry
from interlock.errors import InvalidName, LimitExceeded
from interlock.holder import Holder
from interlock.keys import canonical
from interlock.objects.named import check_count, check_name, check_timeout

if TYPE_CHECKING:
    from interlock.cache.memoize import Memoized
    from interlock.session import Session

_LONGEST_NAME = 200  # bytes of the name of a cache's directory
_WARNINGS = 1000  # that one cache logs in one process
_log = logging.getLogger("interlock")


class Stats(NamedTuple):
    """What this process did with the cache since it opened it, and what is on the disk, whoever wrote it.

    `waited`: values that others computed while this process waited; `healed`: damaged entries found;
    `seconds_saved`: what the values found had taken to compute.
    """

    hits: int = 0
    misses: int = 0
    computed: int = 0
    waited: int = 0
    healed: int = 0
    evicted: int = 0
    seconds_saved: float = 0.0
    entries: int = 0
    bytes: int = 0


class Cache:
    """A cache by name. Threads may share one; pickled, it is its session, its name and its options.

    Args: directory: where the entries are. None: in the session's space if that is a directory, else in the user's
          cache directory. Everybody who uses the cache must find the same one. Its files are its user's own; in a
          directory that is setgid they are the group's.
          limit_bytes: how large the files may get in total; what was not read for the longest time goes first. An entry
          that is being read stays readable. None sets no limit.
          allow_pickle: pickle values that no codec takes. Loading a pickle runs whatever code its writer put into it,
          so pickles are written and loaded only where the files are this user's own and nobody else may write.
    Cost: to make one touches no file.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        directory: str | os.PathLike[str] | None = None,
        limit_bytes: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self.name = check_name(name)
        folder = _folder(name)
        self.directory = os.path.abspath(_default(session, folder) if directory is None else os.fsdecode(directory))
        self.limit_bytes = None if limit_bytes is None else check_count("limit_bytes", limit_bytes)
        self.allow_pickle = allow_pickle
        self.session = session
        self._shards = Shards(self.directory)
        self._own_nothing()
        _open.add(self)

    def _own_nothing(self) -> None:
        """A new cache, or the child's side of a fork, which has computed and counted nothing yet."""
        self._kept = Kept()
        self._counts = dict.fromkeys(Stats._fields, 0)
        self._hits = 0
        self._saved = 0.0
        self._counting = threading.Lock()
        self.computing: set[tuple[int, str]] = set()
        self._warned: set[str] = set()
        self._limit: Limit | None = None
        if self.limit_bytes is not None:
            lock = self.session.lock(f"cache/{self.name}/eviction")
            self._limit = Limit(self._shards, self.limit_bytes, lock)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.session, self.name, self.directory, self.limit_bytes, self.allow_pickle)

    def __repr__(self) -> str:
        return f"<Cache {self.name!r} in {self.directory}>"

    # -- values by key

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, or `default`. Arrays are read-only, and those that are large are mapped.

        Args:   key: whatever `interlock.keys` takes; 1, 1.0, True and "1" are different keys.
        Raises: TypeError: not a key. OSError: the entry cannot be read, or a directory is in its place.
        Cost:   a look at the file if this process has read it before, else open, read or map, close; the checksum is
                checked when a process reads a file for the first time.
        """
        kind = type(key)
        value = self._find(key if kind is str or kind is int or kind is bytes else (canonical(key),))
        return default if value is MISSING or type(value) is Failure else value

    def put(self, key: Any, value: Any) -> None:
        """Store a value, in place of the one that may be there.

        Raises: TypeError: not a key, or a value that no codec takes. OSError: the disk is full or may not be written;
                nothing is left behind. LimitExceeded: it alone is larger than `limit_bytes` (definite).
        Crash:  the old value or the new one.
        Cost:   a file created and renamed.
        """
        self.store(_index(key), codecs.encode(value, allow_pickle=self.allow_pickle))

    def delete(self, key: Any) -> bool:
        """Remove a value; whether there was one."""
        index = _index(key)
        self._kept.drop(index)
        path = self._shards.path(_text(index))
        removed = self._shards.remove(path)
        if removed:
            self._shards.record("deleted", [path])
        return removed

    def clear(self) -> int:
        """Remove every entry; how many there were."""
        self._kept.clear()
        removed = [file.path for file in self._shards.files() if self._shards.remove(file.path)]
        if removed:
            self._shards.record("cleared", removed)
        self._shards.sweep()
        return len(removed)

    def __contains__(self, key: Any) -> bool:
        """Whether there is a value. It is not read, and may turn out to be damaged."""
        text = canonical(key)
        try:
            note, _ = entries.look(self._shards.path(text))
        except (FileNotFoundError, Damage):
            return False
        return note.key == text and note.codec != codecs.ERROR

    def get_or_compute(
        self, key: Any, fn: Callable[[], Any], *, timeout: float | None = None, keep_errors: bool = False
    ) -> Any:
        """The value of a key; if it is missing, one participant computes it and all who ask for it get it.

        Args:    fn: takes nothing; called by at most one participant at a time.
                 timeout: seconds to wait while somebody else computes; None waits for ever, 0 not at all.
                 keep_errors: store an error that `fn` raises, so that it is raised again instead of computing.
        Returns: the value as it reads back, on all participants.
        Raises:  the error of `fn`, on all who waited for it; it is not stored unless `keep_errors`. AcquireTimeout:
                 somebody else still computes (definite). Deadlock: `fn` asks for its own key. TypeError: as for `put`.
        Crash:   if the participant that computes dies or is interrupted, the next one computes.
        Cost:    as `get`; a missing value costs three transactions of the store and a file.
        """
        index = _index(key)
        value = self._find(index)
        if value is MISSING:
            value = Computation(self, index, _text(index), fn, keep_errors).run(check_timeout(timeout))
        if type(value) is Failure:
            raise values.decode_error(value.text)
        return value

    def memoize(self, version: Any = 1) -> Callable[[Callable[..., Any]], Memoized]:
        """A decorator that caches a function by its name, a version and its arguments; see `interlock.cache.memoize`.

        Args: version: of the code; another one makes results of earlier ones unused.
        """
        from interlock.cache.memoize import Memoized

        if callable(version):
            raise TypeError("write @cache.memoize(), with parentheses; or @cache.memoize(version=2)")
        return lambda fn: Memoized(self, fn, version)

    # -- for people

    def explain(self, key: Any) -> str:
        """Why a value will be, or was, computed anew; or when, by whom and in what time it was computed."""
        return self._shards.explain(canonical(key))

    def listing(self) -> Iterator[Listed]:
        """Every entry that is on the disk. Those that are not whole are left out; see `verify`."""
        return self._shards.listing()

    def verify(self) -> list[Damaged]:
        """Read every entry and check its checksum; those that are damaged, and why. Removes nothing."""
        return self._shards.verify()

    def stats(self) -> Stats:
        """What this process did, and what is on the disk."""
        sizes = [file.size for file in self._shards.files()]
        found = {"hits": self._hits, "seconds_saved": self._saved, "entries": len(sizes), "bytes": sum(sizes)}
        return Stats(**{**self._counts, **found})  # type: ignore[arg-type]

    # -- entries by index: the key itself if it is text, bytes or an int, else a tuple with its text

    def _find(self, index: Any) -> Any:
        """The value, a `Failure`, or `MISSING`; counted as a hit or a miss."""
        slot = self._kept.find(index)
        if slot is not None:
            try:
                state = os.stat(slot.path)
                if (state.st_ino, state.st_mtime_ns, state.st_size) == slot.stamp:
                    self._hit(slot.path, state, slot.seconds)
                    return slot.value if slot.view is None else slot.view()
            except OSError:
                pass  # said by whoever opens it
            self._kept.drop(index)
        value = self.look(index, hit=True)
        if value is MISSING:
            self.count("misses")
        return value

    def look(self, index: Any, *, hit: bool = False) -> Any:
        """The same, from the file, and not counted unless it is a `hit`."""
        text = _text(index)
        path = self._shards.path(text)
        try:
            entry = entries.read(path)
            if entry.note.key != text:
                raise Damage(f"it is the entry of {entry.note.key}", entry.state.st_ino)
            value = self._decode(path, entry)
        except FileNotFoundError:
            return MISSING
        except Damage as damage:
            self._heal(path, text, damage)
            return MISSING
        if value is MISSING:
            return MISSING
        if hit:
            self._hit(path, entry.state, entry.note.seconds)
        return self._kept.keep(index, path, entry, value)

    def _decode(self, path: str, entry: Entry) -> Any:
        codec = entry.note.codec
        if codec == codecs.ERROR:
            return Failure(str(entry.payload, "utf-8"))
        if codec == "pickle" and not (self.allow_pickle and self._is_private(path, entry.state.st_uid)):
            self.warn(f"{self!r} holds a pickle that it may not load, {path}: its value is computed anew")
            return MISSING
        try:
            return codecs.decode(codec, entry.payload, allow_pickle=self.allow_pickle)
        except ValueError as error:
            raise Damage(str(error), entry.state.st_ino) from error

    def _heal(self, path: str, text: str, damage: Damage) -> None:
        """Remove what is damaged, if it is still there and we may; the journal knows why the value is missing."""
        self.count("healed")
        self.warn(f"{self!r}: the entry of {text[:200]} at {path} is damaged and will be computed anew: {damage}")
        with suppress(OSError):
            if damage.inode in (0, os.lstat(path).st_ino) and self._shards.remove(path):
                self._shards.record(f"found damaged ({damage}) and removed", [path])

    def store(self, index: Any, value: Encoded, seconds: float = 0.0) -> None:
        """Write an entry, then see to the limit."""
        text = _text(index)
        path = self._shards.path(text)
        if self.limit_bytes is not None and value.length > self.limit_bytes:
            raise LimitExceeded(
                f"a value of {value.length} bytes does not fit into {self!r}, whose limit is {self.limit_bytes}",
                name=self.name,
            )
        if value.codec == "pickle":
            entries.make_directory(os.path.dirname(path))
            if not self._is_private(path, os.geteuid()):
                raise PermissionError(errno.EPERM, "others may write here, so a pickle is not stored", self.directory)
        self._kept.drop(index)
        self._shards.preserve(path)
        _, (_, _, size) = entries.write(path, value, key=text, by=self.author(), seconds=seconds)
        if self._limit is not None:
            try:
                self.count("evicted", len(self._limit.wrote(size)))
            except OSError as error:
                self.warn(f"{self!r} cannot keep its limit: {error}")

    def _is_private(self, path: str, owner: int) -> bool:
        """Whether a file is this user's own and nobody else may write beside it."""
        states = [os.stat(os.path.dirname(path)), os.stat(self.directory)]
        me = os.geteuid()
        return owner == me and all(state.st_uid == me and not state.st_mode & 0o022 for state in states)

    def count(self, what: str, number: int = 1) -> None:
        """Add to the statistics."""
        with self._counting:
            self._counts[what] += number

    def _hit(self, path: str, state: os.stat_result, seconds: float) -> None:
        """Count without a lock: a thread that is counted one too few harms nobody, and a hit costs little else."""
        self._hits += 1
        self._saved += seconds
        if state.st_atime < time.time() - FRESH_S:
            touch(path, state)

    def warn(self, message: str) -> None:
        """Log a warning, once."""
        with self._counting:
            if message in self._warned or len(self._warned) > _WARNINGS:
                return
            self._warned.add(message)
        _log.warning(message)

    def author(self) -> str:
        """This participant in a few words, for entries and errors."""
        return _author(os.getpid())

    def turn(self, text: str) -> str:
        """The name under which a key's value is computed."""
        return f"cache/{self.name}/{os.path.basename(self._shards.path(text))} {text[:80]}"


def _index(key: Any) -> Any:
    return key if type(key) in (str, int, bytes) else (canonical(key),)


def _text(index: Any) -> str:
    return index[0] if type(index) is tuple else canonical(index)


def _folder(name: str) -> str:
    """The name as one of a directory, which shows and stays where it belongs."""
    folder = quote(name, safe=" ")
    folder = f"%2E{folder[1:]}" if folder.startswith(".") else folder
    if len(folder) > _LONGEST_NAME:
        raise InvalidName(f"the name of a cache has at most {_LONGEST_NAME} bytes as a file's name: {name[:80]!r}")
    return folder


def _default(session: Session, folder: str) -> str:
    """The directory of a cache that was not given one."""
    space = getattr(session.store, "path", None)
    if space is not None:
        return os.path.join(space, "caches", folder)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "interlock", folder)


@functools.lru_cache(4)
def _author(pid: int) -> str:
    return dataclasses.replace(Holder.here(), since=0.0).describe()


def _rebuild(session: Session, name: str, directory: str, limit_bytes: int | None, allow_pickle: bool) -> Cache:
    return Cache(session, name, directory=directory, limit_bytes=limit_bytes, allow_pickle=allow_pickle)


_open: weakref.WeakSet[Cache] = weakref.WeakSet()


def _own_nothing_in_child() -> None:
    for cache in list(_open):
        cache._own_nothing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_nothing_in_child)
