"""Regions: the objects of one scope of shared memory, as this process has mapped them.

Whoever makes an object, or takes its name away, has the scope's lock. An object whose name is taken away was closed
before, for ever: whoever still has it mapped is told so when using it, and finds here what has the name now.

Layer: under `shm.store`; it knows names and files, and no machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from interlock import _native
from interlock.errors import LimitExceeded, RecordInvalid
from interlock.shm.results import Results
from interlock.stores._record import invalid
from interlock.stores._space import Space, file_name, reaching, unusable

FOLDER = "native"
OBJECTS = 1024  # after so many more, objects that are not in use are unmapped
_MOST = 2**32 - 1  # permits that the core can be asked for; it takes fewer
_tables: dict[tuple[int, int], Any] = {}  # lives, by their files: mapped and begun once, until the process ends


class Regions:
    """The mapped objects of one scope."""

    def __init__(self, space: Space, url: str) -> None:
        self._space, self._url = space, url
        self._guard = threading.RLock()  # a signal's handler may come in between
        self._mapped: dict[str, tuple[int, Any]] = {}  # with the number of the file
        self._lives: Any = None
        self._begun = False
        self._folder = -1
        self.results = Results(space)

    def close(self) -> None:
        """Close what is open; what is mapped stays for those who use it."""
        if self._folder >= 0:
            os.close(self._folder)

    def begin(self, deadline: float | None = None) -> None:
        """Begin the life of this process here, if it has none, and make what objects need."""
        if self._begun:
            return
        with self._space.locked(deadline), reaching(self._space.path):
            if not self._begun:
                with suppress(FileExistsError):
                    os.mkdir(FOLDER, 0o700, dir_fd=self._space.root)
                self._space.publish("lives", self._space.root, _native.blank_lives())
                self._attach()
                self._lives.begin()
                self._begun = True  # last: other threads go on without the lock then

    def _attach(self) -> None:
        with self._guard:
            if self._lives is None:
                status = os.stat("lives", dir_fd=self._space.root, follow_symlinks=False)
                key = status.st_dev, status.st_ino
                lives = _tables.get(key) or self._table()
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
                self._folder = os.open(FOLDER, flags, dir_fd=self._space.root)
                self._lives = _tables[key] = lives

    def _attached(self) -> bool:
        """Whether anybody ever made an object here. Makes nothing, and begins nothing."""
        if self._lives is None:
            with reaching(self._space.path), suppress(FileNotFoundError):
                self._attach()
        return self._lives is not None

    def _table(self) -> Any:
        """The lives of this scope."""
        with self._sound("lives", None):
            return self._opened("lives", self._space.root, _native.Lives)

    def _region(self, filed: str, name: str | None = None) -> Any:
        """The object in a file; None if there is no such file."""
        with suppress(FileNotFoundError), self._sound(os.path.join(FOLDER, filed), name):
            return self._opened(filed, self._folder, _native.Region, self._lives)
        return None

    def _opened(self, filed: str, directory: int, kind: Any, *others: Any) -> Any:
        try:
            fd = self._space.open(filed, os.O_RDWR, directory)
        except IsADirectoryError:
            raise ValueError("it is a directory") from None
        try:
            if not os.fstat(fd).st_size:
                raise ValueError("it is empty")
            return kind(fd, *others)
        finally:
            os.close(fd)

    @contextmanager
    def _sound(self, path: str, name: str | None) -> Iterator[None]:
        """Say of anything that is no file of ours where it is, and what is wrong with it."""
        path = os.path.join(self._space.path, path)
        try:
            yield
        except FileNotFoundError:
            raise
        except (ValueError, RecordInvalid) as error:
            damage = error.damage if isinstance(error, RecordInvalid) else error
            raise invalid(path, damage, name=name, scope=self._url) from None
        except OSError as error:
            raise unusable(path, error) from error

    def find(self, name: str) -> Any:
        """The object that has the name now; None if there is none. Makes nothing, and begins nothing."""
        if not self._attached():
            return None
        filed = file_name(name)
        try:
            number = os.stat(filed, dir_fd=self._folder, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return None
        known = self._mapped.get(name)
        if known is not None and known[0] == number:
            return known[1]
        region = self._region(filed, name)
        if region is not None and region.name != as_bytes(name):
            raise invalid(self._path(filed), "it is the object of another name", name=name, scope=self._url)
        with self._guard:
            known = self._mapped.get(name)
            if region is not None and (known is None or known[0] != number):
                self._make_room()
                known = self._mapped[name] = number, region
        return None if known is None else known[1]

    def _make_room(self) -> None:
        """Now and then, forget objects at which nobody is: a process may use any number of names."""
        if len(self._mapped) % OBJECTS == OBJECTS - 1:
            for name, (_, region) in list(self._mapped.items()):
                if not region.snapshot()[2]:
                    del self._mapped[name]

    def make(
        self, name: str, kind: int, permits: int, unless: Callable[[], None], deadline: float | None = None
    ) -> None:
        """Make the object of a name; one that exists stays as it is. `unless` raises if the name is taken otherwise."""
        self.begin(deadline)
        with self._space.locked(deadline):
            unless()
            floor = max(time.time_ns() // 8, self._space.floor())
            try:
                content = _native.blank_object(kind, min(permits, _MOST), floor, as_bytes(name))
            except ValueError as error:
                raise LimitExceeded(f"{name!r} in {self._url}: {error}", name=name, scope=self._url) from None
            self._space.publish(file_name(name), self._folder, content)

    def remove(self, name: str, only: Any = None) -> bool:
        """Close the object of a name, unless it is in use, and take its name away; `only` if it is a certain one.

        Tokens go on where it ends, whatever the clock says.
        """
        self.begin()
        with self._space.locked(), reaching(self._space.path):
            region = self.find(name)
            if region is None or region is not (only or region) or not region.retire():
                return False
            self._space.raise_floor(region.snapshot()[0])
            self.results.drop(file_name(name))
            os.unlink(file_name(name), dir_fd=self._folder)
            return True

    def set_aside(self, name: str) -> str:
        """Move a file that is no object out of the way; where it is then."""
        filed = file_name(name)
        aside = f".damaged-{filed}-{os.urandom(4).hex()}"
        with self._space.locked(), reaching(self._path(filed)):
            os.rename(filed, aside, src_dir_fd=self._folder, dst_dir_fd=self._space.root)
        return os.path.join(self._space.path, aside)

    def all(self) -> Iterator[Any]:
        """Every object, and a `RecordInvalid` for each file that is none."""
        for filed in sorted(os.listdir(self._folder)) if self._attached() else ():
            if filed.startswith("."):
                continue  # not finished, or never finished
            try:
                region = self._region(filed)
            except RecordInvalid as error:
                region = error
            if region is not None:
                yield region

    def evict(self, session: int) -> None:
        """Give back whatever a session has in objects that this process uses."""
        for _, region in list(self._mapped.values()):
            region.evict(session)

    def _path(self, filed: str) -> str:
        return os.path.join(self._space.path, FOLDER, filed)


def as_bytes(name: str) -> bytes:
    """A name as objects keep it."""
    return name.encode("utf-8", "surrogatepass")
