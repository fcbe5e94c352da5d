"""The directory of a cache: where an entry lies, what there is, and how files go away.

Layout::

    ab/ab34...        an entry, named by the digest of its key's text; 256 such folders
    journal           why entries went away, for `Cache.explain`; `journal.old` is the one before
    removed/          on file systems that several hosts share: removed entries, until nobody can still be reading them

Where only this host sees the files, a removed file stays readable for whoever has it open. A file server makes no such
promise to other hosts, so there a removed entry is first moved aside, and deleted an hour later.

The directory is made, and looked at, when it is first needed: to open a cache touches no file.
Layer: above `entries`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

from interlock import entries
from interlock.codecs import ERROR
from interlock.entries import Damage, Note
from interlock.holder import span
from interlock.stores import _mount

GRACE_S = 3600.0  # how long a file that may be in use, by a reader elsewhere or by its writer, is left alone
_SHARDS = [f"{number:02x}" for number in range(256)]
_ENTRY = re.compile(r"[0-9a-f]{32}")
_JOURNAL_BYTES = 1024 * 1024
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class File(NamedTuple):
    """An entry's file as listed: `used` is the wall clock, in nanoseconds, when somebody last read it."""

    path: str
    size: int
    used: int


class Listed(NamedTuple):
    """An entry that says what it is: its file, the size of that, and when it was last used, in seconds."""

    note: Note
    path: str
    bytes: int
    used: float


class Damaged(NamedTuple):
    """A file in the place of an entry, and what is wrong with it."""

    path: str
    damage: str


class Shards:
    """The directory of one cache."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, text: str) -> str:
        """Where the entry of a key lies."""
        digest = blake2b(text.encode(), digest_size=16).hexdigest()
        return f"{self.directory}/{digest[:2]}/{digest}"

    def files(self) -> Iterator[File]:
        """Every entry's file, whole or not. Removes what killed writers left behind."""
        for shard in _SHARDS:
            try:
                with os.scandir(f"{self.directory}/{shard}") as found:
                    listed = list(found)
            except FileNotFoundError:
                continue
            for item in listed:
                try:
                    state = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if _ENTRY.fullmatch(item.name):
                    yield File(item.path, state.st_size, state.st_atime_ns)
                elif item.name.endswith(".tmp") and time.time() - state.st_mtime > GRACE_S:
                    _unlink(item.path)

    @functools.cached_property
    def _shared(self) -> bool:
        return _mount.may_be_shared(self.directory)

    def remove(self, path: str) -> bool:
        """Remove an entry, so that whoever is reading it can go on; whether it was there. Raises `OSError`."""
        try:
            if self._shared:
                os.rename(path, self._aside(path))
            else:
                os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def preserve(self, path: str) -> None:
        """Before an entry is replaced: keep the file that is there for whoever is reading it."""
        with suppress(OSError):
            if self._shared and os.path.exists(path):
                os.link(path, self._aside(path), follow_symlinks=False)

    def _aside(self, path: str) -> str:
        folder = os.path.join(self.directory, "removed")
        entries.make_directory(folder)
        return os.path.join(folder, f"{time.time_ns()}-{os.urandom(4).hex()}")

    def sweep(self) -> None:
        """Delete what was moved aside long ago."""
        folder = os.path.join(self.directory, "removed")
        with suppress(OSError):
            for name in os.listdir(folder):
                since = name.partition("-")[0]
                if since.isdigit() and time.time() - int(since) / 1e9 > GRACE_S:
                    _unlink(os.path.join(folder, name))

    # -- for people

    def listing(self) -> Iterator[Listed]:
        """Every entry, with what it says of itself; those that do not are left out."""
        for file in self.files():
            with suppress(Damage, OSError):
                note, _ = entries.look(file.path)
                yield Listed(note, file.path, file.size, file.used / 1e9)

    def verify(self) -> list[Damaged]:
        """Read every entry and check its checksum; those that are damaged."""
        damaged = []
        for file in self.files():
            try:
                note = entries.read(file.path, afresh=True).note
                if self.path(note.key) != file.path:
                    raise Damage(f"it is the entry of {note.key}")
            except FileNotFoundError:
                continue
            except (Damage, OSError) as damage:
                damaged.append(Damaged(file.path, str(damage)))
        return damaged

    def explain(self, text: str) -> str:
        """What there is for a key, or why there is nothing."""
        path = self.path(text)
        event = self._last_event(path)
        before = f"{event['event']} on {_moment(event['at'])}" if event else ""
        try:
            note, state = entries.look(path)
            if note.key != text:
                raise Damage(f"it is the entry of {note.key}")
        except FileNotFoundError:
            return f"missing: {before or 'never computed'}"
        except Damage as damage:
            return f"damaged: {damage}; the next read removes it"
        words = "an error that is kept" if note.codec == ERROR else f"{note.codec}, {note.length} bytes"
        words += f", stored on {_moment(note.at)} by {note.by}"
        words += f", computed in {span(note.seconds)}" if note.seconds else ""
        words += f", last used on {_moment(state.st_atime)}"
        return f"present: {words}" + (f"; an earlier one was {before}" if before else "")

    def record(self, event: str, paths: Iterable[str]) -> None:
        """Note why entries went away. The journal is for people: where it cannot be written, it is not."""
        at = round(time.time(), 3)
        lines = [json.dumps({"at": at, "entry": os.path.basename(path), "event": event}) + "\n" for path in paths]
        journal = os.path.join(self.directory, "journal")
        with suppress(OSError):
            fd = os.open(journal, _APPEND, 0o600)
            try:
                if not os.fstat(fd).st_size:
                    entries.settle_owner(fd, os.stat(self.directory))
                os.write(fd, "".join(lines).encode())
                if os.fstat(fd).st_size > _JOURNAL_BYTES:
                    os.replace(journal, f"{journal}.old")
            finally:
                os.close(fd)

    def _last_event(self, path: str) -> dict[str, Any] | None:
        """What last happened to an entry, as far as the journal goes back."""
        name = os.path.basename(path)
        for journal in ("journal", "journal.old"):
            with suppress(OSError), open(os.path.join(self.directory, journal), encoding="utf-8") as lines:
                for line in reversed([line for line in lines if name in line]):
                    with suppress(ValueError):
                        event: dict[str, Any] = json.loads(line)
                        return event
        return None


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
